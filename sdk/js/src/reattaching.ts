import { Continuity, type Event } from "./continuity.js";
import { FrameReader } from "./sse.js";

/** Sends a request, as `fetch` does. */
export type Send = (url: string, init: RequestInit) => Promise<Response>;

export interface ReattachingOptions {
  /** Sends each request; `fetch` where it is absent. A `Session` of @karma-cloud/client refreshes access tokens here. */
  send?: Send;
  /** Connections that may fail one after the other, without progress, before the stream fails; 10 where it is absent. */
  patience?: number;
  /** Milliseconds of silence after which a connection counts as cut; the server sends a comment every 10,000. */
  silenceMs?: number;
}

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 10_000;
/** Statuses of requests that may be repeated: a run is named by its id, so that none is done twice. */
const TRY_AGAIN = new Set([408, 425, 429, 500, 502, 503, 504, ...Array.from({ length: 10 }, (_, n) => 520 + n)]);
/** The longest pause that a server may ask for; a refusal that asks for a longer one is passed on. */
const LONGEST_WAIT_MS = 60_000;

/**
 * Makes a `fetch` for AG-UI clients whose answer goes on when its connection is cut.
 *
 * A POST whose JSON has a `runId` is answered by the events of that run, to its end or until it is paused, over as many
 * connections as it takes:
 * behind the first the run's log is followed. Refusals of the first request are passed on as they are, and so is every
 * other request.
 */
export function reattaching({ send = (url, init) => fetch(url, init), patience = 10, silenceMs = 30_000 }: ReattachingOptions = {}): Send {
  return async (url, init) => {
    const runId = runIdOf(init);
    if (runId === undefined) return send(url, init);
    const log = new URL(`/api/v1/runs/${encodeURIComponent(runId)}/events`, url);
    const { "content-type": _, ...headers } = Object.fromEntries(new Headers(init.headers));
    const follow = { headers: { ...headers, accept: "text/event-stream" }, signal: init.signal ?? null };
    const run = new Run(patience, silenceMs, init.signal ?? undefined);
    // Until its first event the run may not be stored: it is started again.
    return run.answered((place) => (place === undefined ? send(url, init) : send(at(log, place), follow)));
  };
}

/**
 * Answers with the conversation and the state of a run as they are, and with what follows, to its end or until it is
 * paused, over as many connections as it takes; `log` is the address of the run's events.
 */
export async function joined(log: URL, signal: AbortSignal, options: ReattachingOptions): Promise<Response> {
  const { send = (url, init) => fetch(url, init), patience = 10, silenceMs = 30_000 } = options;
  const follow = { headers: { accept: "text/event-stream" }, signal };
  const run = new Run(patience, silenceMs, signal);
  return run.answered((place) => send(at(log, place ?? 0), follow));
}

/**
 * Returns where a run is followed behind a position of its log. Behind none it is joined: what was handed on may have shown
 * the conversation with the run's answer in it, and the log from its beginning would say that once more.
 */
function at(log: URL, position: number): string {
  const place = new URL(log);
  place.search = position === 0 ? "join=true" : `after=${position}`;
  return place.href;
}

/** Opens a connection: behind a position of the log; undefined: nothing was handed on yet. */
type Open = (position: number | undefined) => Promise<Response>;

/** One run over its connections. */
class Run {
  readonly #continuity = new Continuity();
  #hasBegun = false;
  #failures = 0;
  #reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  #left = false;

  constructor(
    readonly patience: number,
    readonly silenceMs: number,
    readonly signal: AbortSignal | undefined,
  ) {}

  /** Makes the answer with the events of all connections; a refusal of the first is passed on. */
  async answered(open: Open): Promise<Response> {
    const first = await this.#connect(open);
    if (!first.ok) return first;
    const events = this.#events(first, open);
    const encoder = new TextEncoder();
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        const { value, done } = await events.next();
        if (done) controller.close();
        else controller.enqueue(encoder.encode(value.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("")));
      },
      cancel: () => this.leave(),
    });
    return new Response(body, { status: 200, headers: { "content-type": "text/event-stream" } });
  }

  /** Yields the events to hand on, as they arrive: those of the first connection, and of the log behind a position. */
  async *#events(first: Response, open: Open): AsyncGenerator<Event[], void> {
    let connection = first;
    for (;;) {
      const before = this.#continuity.position;
      yield* this.#read(connection);
      if (this.#continuity.isOver || this.#continuity.isPaused) return;
      await this.#pause(this.#continuity.position > before);
      this.#continuity.reconnect();
      connection = await this.#connect(open);
      if (!connection.ok) throw new Error(`HTTP ${connection.status}: ${await connection.text()}`);
    }
  }

  /** Opens a connection, again where it fails, or its refusal is cut, and where it may be repeated. */
  async #connect(open: Open): Promise<Response> {
    for (;;) {
      let waitMs: number | undefined;
      try {
        const response = await open(this.#hasBegun ? this.#continuity.position : undefined);
        if (response.ok) return response;
        if (!TRY_AGAIN.has(response.status) || this.#failures >= this.patience) return await whole(response);
        const after = response.headers.get("retry-after") ?? "";
        if (/^\d+$/.test(after)) waitMs = Number(after) * 1000;
        if (waitMs !== undefined && waitMs > LONGEST_WAIT_MS) return await whole(response);
        await response.body?.cancel();
      } catch (error) {
        if (this.signal?.aborted || this.#failures >= this.patience) throw error;
      }
      await this.#pause(false, waitMs);
    }
  }

  /** Yields what one connection brings, until it ends or is cut. */
  async *#read(response: Response): AsyncGenerator<Event[], void> {
    if (response.body === null) return;
    const frames = new FrameReader();
    const reader = (this.#reader = response.body.getReader());
    for (;;) {
      const timer = setTimeout(() => void reader.cancel().catch(() => undefined), this.silenceMs);
      let read;
      try {
        read = await reader.read();
      } catch (error) {
        if (this.signal?.aborted) throw error;
        return;
      } finally {
        clearTimeout(timer);
      }
      if (read.done) return;
      const events: Event[] = [];
      let torn = false;
      for (const { data, id } of frames.feed(read.value)) {
        const event = data === "" ? undefined : eventOf(data);
        // Not what the server has sent: something in between has cut it, so that this connection is over.
        torn = event === null || (id !== undefined && !/^\d+$/.test(id));
        if (torn) break;
        events.push(...this.#continuity.take(event ?? undefined, id === undefined ? undefined : Number(id)));
      }
      if (events.length > 0) {
        this.#hasBegun = true;
        yield events;
      }
      if (torn) {
        await reader.cancel().catch(() => undefined);
        return;
      }
    }
  }

  /** Waits before the next connection: not at all after progress, else longer each time. */
  async #pause(progressed: boolean, waitMs?: number): Promise<void> {
    if (this.#left) throw new DOMException("The stream was cancelled", "AbortError");
    this.signal?.throwIfAborted();
    this.#failures = progressed ? 0 : this.#failures + 1;
    if (this.#failures > this.patience) throw new TypeError("The run cannot be followed any more; it goes on");
    // Random, so that clients that lost one server do not come back together.
    const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this.#failures);
    const pause = progressed ? 0 : (waitMs ?? Math.random() * longest);
    await new Promise((resolve) => setTimeout(resolve, pause));
    this.signal?.throwIfAborted();
  }

  /** Ends the present connection, since nobody reads the stream any more. */
  leave(): void {
    this.#left = true;
    void this.#reader?.cancel().catch(() => undefined);
  }
}

/** Reads a refusal to its end, which may be cut as well. */
async function whole({ status, statusText, headers, body }: Response): Promise<Response> {
  return new Response(body === null ? null : await new Response(body).text(), { status, statusText, headers });
}

/** Returns the event of a frame; null where it is none. */
function eventOf(data: string): Event | null {
  try {
    const event = JSON.parse(data) as unknown;
    return typeof event === "object" && event !== null && !Array.isArray(event) ? (event as Event) : null;
  } catch {
    return null;
  }
}

function runIdOf(init: RequestInit): string | undefined {
  if (init.method?.toUpperCase() !== "POST" || typeof init.body !== "string") return undefined;
  try {
    const { runId } = JSON.parse(init.body) as { runId?: unknown };
    return typeof runId === "string" ? runId : undefined;
  } catch {
    return undefined;
  }
}
