import { KarmaError, refusal } from "./access.js";
import type { Send } from "./reattaching.js";
import { FrameReader } from "./sse.js";

/** What `subscribe` says a client holds of a channel. */
export interface Held {
  objects: Record<string, number>;
  head?: { epoch: string; seq: number };
}

/** Milliseconds for which subscriptions are collected: each change of them is another stream. */
const COLLECT_MS = 20;
const RETRY_MS = 1_000;
/** A stream says something every ten seconds. */
const SILENCE_MS = 30_000;
const MAX_HELD_CHARS = 4_000;

/**
 * Speaks the WebSocket's protocol over server-sent events, where a WebSocket does not open.
 *
 * Its responses last for less than a minute each; it comes back with the id of the last event, and gets what is missing.
 */
export class StreamSocket {
  readonly readyState = 1;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: (() => void) | null = null;
  onerror: (() => void) | null = null;
  readonly #channels = new Set<string>();
  #collecting: ReturnType<typeof setTimeout> | undefined;
  #reading: AbortController | undefined;
  #isClosed = false;

  constructor(
    private readonly streamUrl: string,
    private readonly request: Send,
    /** What is held of a channel by now; asked when a stream begins, not when it goes on. */
    private readonly held: (channel: string) => Held | undefined,
    private readonly failed: (error: unknown) => void,
  ) {}

  /** Takes what a WebSocket would be sent. */
  send(text: string): void {
    const said = JSON.parse(text) as { action: string; channel?: string };
    if (said.action === "ping") this.#say({ type: "pong", missed: 0 });
    if (said.channel === undefined) return;
    if (said.action === "subscribe") this.#channels.add(said.channel);
    else this.#channels.delete(said.channel);
    clearTimeout(this.#collecting);
    this.#collecting = setTimeout(() => void this.#begin(), COLLECT_MS);
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#collecting);
    this.#reading?.abort();
  }

  /** Reads one response after the other, until the channels are others, it is closed, or one is refused. */
  async #begin(): Promise<void> {
    this.#reading?.abort();
    if (this.#channels.size === 0 || this.#isClosed) return;
    const reading = (this.#reading = new AbortController());
    const channels = [...this.#channels];
    const query = new URLSearchParams({ channels: channels.join(" "), held: this.#known(channels) });
    let lastId = "";
    try {
      while (!reading.signal.aborted) {
        lastId = await this.#read(`${this.streamUrl}/api/v1/realtime/stream?${query}`, lastId, reading);
        if (!reading.signal.aborted) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    } catch (error) {
      if (reading.signal.aborted) return;
      this.failed(error);
      this.onclose?.();
    }
  }

  /** Reads a response to its end, or until it is cut or silent; returns the last id. */
  async #read(url: string, lastId: string, reading: AbortController): Promise<string> {
    const headers = { Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": lastId } : {}) };
    const response = new AbortController();
    const end = (): void => response.abort();
    reading.signal.addEventListener("abort", end);
    let silence = setTimeout(end, SILENCE_MS);
    try {
      const answer = await this.request(url, { headers, signal: response.signal });
      if (!answer.ok || answer.body === null) throw await refusal(answer);
      const frames = new FrameReader();
      const chunks = answer.body.getReader();
      for (;;) {
        const { value, done } = await chunks.read();
        if (done) return lastId;
        clearTimeout(silence);
        silence = setTimeout(end, SILENCE_MS);
        for (const frame of frames.feed(value)) {
          if (reading.signal.aborted) return lastId;
          if (frame.data) this.onmessage?.({ data: frame.data });
          // Behind what it stands for: whoever is cut in between gets that once more, and drops it.
          lastId = frame.id ?? lastId;
        }
      }
    } catch (error) {
      // What has begun can go on; a refusal, or nobody there, is a failure.
      if (error instanceof KarmaError || lastId === "") throw error;
      return lastId;
    } finally {
      clearTimeout(silence);
      reading.signal.removeEventListener("abort", end);
      end();
    }
  }

  /** What is held, as far as it has room: what is left out is only told once more. Numbers of lists come first. */
  #known(channels: string[]): string {
    const all = channels.map((channel) => [channel, this.held(channel) ?? { objects: {} }] as const);
    const whole = JSON.stringify(Object.fromEntries(all));
    if (whole.length <= MAX_HELD_CHARS) return whole;
    const logs = ([name]: [string, number]): boolean => /^(log|messages):/.test(name);
    const short = all.map(([channel, { objects, head }]) => {
      const kept = Object.fromEntries(Object.entries(objects).filter(logs));
      return [channel, { objects: kept, ...(head ? { head } : {}) }] as const;
    });
    const without = JSON.stringify(Object.fromEntries(short));
    if (without.length <= MAX_HELD_CHARS) return without;
    const heads = all.flatMap(([channel, { head }]) => (head ? [[channel, { objects: {}, head }] as const] : []));
    return JSON.stringify(Object.fromEntries(heads.slice(0, 20)));
  }

  #say(message: object): void {
    queueMicrotask(() => this.onmessage?.({ data: JSON.stringify(message) }));
  }
}
