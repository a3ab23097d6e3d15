/** One server-sent event: its data, "" in a frame that only names a position, and the value of its `id` line. */
export interface Frame {
  data: string;
  id: string | undefined;
}

/** Characters of one frame at the most; a conversation that is shown anew may have 4 MB before it is escaped. */
export const MAX_FRAME_CHARS = 16 * 1024 * 1024;

/** Cuts a stream of bytes into frames. Lines end at LF alone, and it matters which frame carried an `id`. */
export class FrameReader {
  readonly #decoder = new TextDecoder();
  #parts: string[] = [];
  #size = 0;

  /** Takes bytes, and returns the frames that they complete; comments are left out. Throws when a frame does not end. */
  feed(chunk: Uint8Array): Frame[] {
    const text = this.#decoder.decode(chunk, { stream: true });
    // Joined only where a frame ends: a long frame would be copied and searched with each of its pieces.
    const hasEnd = ((this.#parts[this.#parts.length - 1] ?? "").slice(-1) + text).includes("\n\n");
    if (text !== "") this.#parts.push(text);
    const whole = hasEnd ? this.#parts.join("").split("\n\n") : [];
    if (hasEnd) {
      const rest = whole.pop() ?? "";
      this.#parts = rest === "" ? [] : [rest];
    }
    this.#size = hasEnd ? (this.#parts[0]?.length ?? 0) : this.#size + text.length;
    if (this.#size > MAX_FRAME_CHARS) throw new TypeError(`A frame has more than ${MAX_FRAME_CHARS} characters`);
    return whole.map(frameOf).filter((frame) => frame.data !== "" || frame.id !== undefined);
  }
}

function frameOf(text: string): Frame {
  const data: string[] = [];
  let id: string | undefined;
  for (const line of text.split("\n")) {
    const colon = line.indexOf(":");
    if (colon < 0) continue;
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (line.startsWith("data:")) data.push(value);
    else if (line.startsWith("id:")) id = value;
  }
  return { data: data.join("\n"), id };
}
