import { KarmaError, refusal, sender, type Access } from "./access.js";
import type { Send } from "./reattaching.js";
import { StreamSocket } from "./streamed.js";
import { Watched, type Acknowledgement, type LiveEvent, type Message } from "./watched.js";

export interface KarmaLiveConfig extends Access {
  /** `api_url`, without a path. */
  apiUrl: string;
  /** `stream_url`, without a path: where WebSockets do not open, the same is read there as server-sent events. */
  streamUrl?: string;
  /** The constructor of WebSockets, where there is no global one. */
  WebSocket?: typeof WebSocket;
  /** Milliseconds between pings; the gateway closes what is silent for ten minutes. */
  pingMs?: number;
  /** Is told why there is no connection at the moment; it goes on by itself. */
  onError?: (error: unknown) => void;
}

const ANSWER_MS = 5_000;
const HOLE_MS = 1_000;
/** The gateway ends a connection after two hours: another one takes its place before. */
const ROTATE_MS = 110 * 60_000;

/** WebSockets that did not open, one after the other, after which a stream takes their place. */
const REFUSED = 2;
/** A stream is given up for another try of a WebSocket, which costs less. */
const TRY_AGAIN_MS = 10 * 60_000;

type Link = WebSocket | StreamSocket;
type Listener = (event: LiveEvent) => void;
type Said = Acknowledgement | Message | { type: "pong"; missed: number } | { type: "error"; code: string; message: string };

/**
 * Watches channels over one WebSocket: tickets, pings, new connections and what was missed meanwhile are its business.
 *
 * It connects with the first subscription, and at once when a page wakes up, comes back from the cache or is online again.
 */
export class KarmaLive {
  readonly #send: Send;
  readonly #config: KarmaLiveConfig;
  readonly #watched = new Map<string, { watched: Watched; listeners: Set<Listener> }>();
  readonly #holes = new Map<string, ReturnType<typeof setTimeout>>();
  #socket: Link | undefined;
  /** WebSockets that did not open since one did. */
  #refused = 0;
  #connecting = false;
  #isClosed = false;
  #failures = 0;
  #missed = 0;
  #silence: ReturnType<typeof setTimeout> | undefined;
  #timers: ReturnType<typeof setTimeout>[] = [];

  constructor(config: KarmaLiveConfig) {
    this.#config = config;
    this.#send = sender(config);
    for (const [target, names] of [
      [globalThis, ["online", "pageshow"]],
      [globalThis.document, ["visibilitychange"]],
    ] as const) {
      for (const name of names) target?.addEventListener?.(name, this.#wake);
    }
  }

  /** Tells `listener` what happens to what a channel is about, its present state first; returns what ends that. */
  subscribe(channel: string, listener: Listener): () => void {
    let entry = this.#watched.get(channel);
    if (entry === undefined) {
      const listeners = new Set<Listener>();
      const watched = new Watched(
        channel,
        (event) => listeners.forEach((each) => each(event)),
        () => this.#subscribe(channel),
        (isOpen) => this.#await(channel, isOpen),
      );
      entry = { watched, listeners };
      this.#watched.set(channel, entry);
      if (this.#socket === undefined) this.#connect();
      else this.#subscribe(channel);
    }
    const { listeners } = entry;
    listeners.add(listener);
    return () => {
      if (!listeners.delete(listener) || listeners.size > 0) return;
      this.#watched.delete(channel);
      this.#await(channel, false);
      this.#say({ action: "unsubscribe", channel });
    };
  }

  /** Ends all of it. */
  close(): void {
    this.#isClosed = true;
    for (const name of ["online", "pageshow"]) globalThis.removeEventListener?.(name, this.#wake);
    globalThis.document?.removeEventListener("visibilitychange", this.#wake);
    for (const channel of this.#watched.keys()) this.#await(channel, false);
    this.#watched.clear();
    this.#lost(this.#socket);
  }

  /** Looks whether the connection is alive still, as it may not be after a sleep or in another network. */
  readonly #wake = (): void => {
    if (this.#isClosed || this.#watched.size === 0) return;
    if (this.#socket === undefined) {
      this.#failures = 0;
      this.#connect();
    } else this.#ping();
  };

  async #connect(): Promise<void> {
    if (this.#connecting || this.#isClosed) return;
    this.#connecting = true;
    const { streamUrl } = this.#config;
    if (streamUrl !== undefined && this.#refused >= REFUSED) {
      this.#connecting = false;
      // One WebSocket is tried before the next stream, too.
      this.#refused = REFUSED - 1;
      const held = (channel: string) => this.#watched.get(channel)?.watched.held();
      const failed = (error: unknown): void => this.#config.onError?.(error);
      return this.#opened(new StreamSocket(streamUrl.replace(/\/+$/, ""), this.#send, held, failed));
    }
    try {
      const { ticket, url } = await this.#ticket();
      const socket = new (this.#config.WebSocket ?? WebSocket)(`${url}?ticket=${encodeURIComponent(ticket)}`);
      await new Promise<void>((resolve, reject) => {
        const late = setTimeout(() => reject(new Error("The WebSocket does not open")), ANSWER_MS);
        socket.onopen = () => (clearTimeout(late), resolve());
        socket.onerror = socket.onclose = () => (clearTimeout(late), reject(new Error("The WebSocket was refused")));
      }).catch((error: unknown) => {
        this.#refused += 1;
        socket.onopen = socket.onerror = socket.onclose = null;
        socket.close();
        throw error;
      });
      this.#refused = 0;
      this.#connecting = false;
      this.#opened(socket);
    } catch (error) {
      this.#connecting = false;
      this.#config.onError?.(error);
      // Who may not connect is not helped by asking again.
      if (error instanceof KarmaError && (error.status === 401 || error.status === 403)) return;
      this.#later();
    }
  }

  #opened(socket: Link): void {
    const former = this.#socket;
    if (this.#isClosed) return socket.close();
    this.#socket = socket;
    this.#missed = 0;
    // A stream may still be refused.
    if (!(socket instanceof StreamSocket)) this.#failures = 0;
    socket.onmessage = ({ data }: { data: unknown }) => this.#heard(socket, JSON.parse(String(data)) as Said);
    socket.onerror = socket.onclose = () => this.#lost(socket);
    this.#timers.forEach(clearTimeout);
    const rotate = (socket instanceof StreamSocket ? TRY_AGAIN_MS : ROTATE_MS) * (0.96 + Math.random() * 0.08);
    this.#timers = [setTimeout(() => this.#connect(), rotate)];
    for (const channel of this.#watched.keys()) this.#subscribe(channel);
    this.#expect();
    if (former !== undefined) {
      former.onclose = former.onerror = former.onmessage = null;
      former.close();
    }
  }

  #lost(socket: Link | undefined): void {
    if (socket === undefined || socket !== this.#socket) return;
    socket.onclose = socket.onerror = socket.onmessage = null;
    socket.close();
    this.#socket = undefined;
    clearTimeout(this.#silence);
    this.#timers.forEach(clearTimeout);
    this.#later();
  }

  /** Connects again after a while of chance, which grows with the failures. */
  #later(): void {
    if (this.#isClosed || this.#watched.size === 0) return;
    const most = Math.min(30_000, 500 * 2 ** this.#failures);
    this.#failures += 1;
    this.#timers.push(setTimeout(() => this.#connect(), Math.random() * most));
  }

  #heard(socket: Link, said: Said): void {
    if (socket !== this.#socket) return;
    this.#expect();
    if (said.type === "event") this.#watched.get(said.channel)?.watched.take(said);
    else if (said.type === "ack" && said.action === "subscribe") {
      this.#failures = 0;
      this.#missed = Math.max(this.#missed, said.missed);
      this.#watched.get(said.channel)?.watched.acknowledged(said);
    } else if (said.type === "pong" && said.missed > this.#missed) {
      this.#missed = said.missed;
      for (const channel of this.#watched.keys()) this.#subscribe(channel);
    } else if (said.type === "error") {
      this.#config.onError?.(new KarmaError(0, said.code, said.message));
      if (said.code === "UNAUTHORIZED") this.#lost(socket);
    }
  }

  /** Pings after a while without a message. */
  #expect(): void {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#ping(), this.#config.pingMs ?? 240_000);
  }

  /** Asks for an answer; without one soon the connection counts as lost. */
  #ping(): void {
    const socket = this.#socket;
    this.#say({ action: "ping" });
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#lost(socket), ANSWER_MS);
  }

  #subscribe(channel: string): void {
    const held = this.#watched.get(channel)?.watched.held();
    if (held !== undefined) this.#say({ action: "subscribe", channel, held });
  }

  /** Waits a moment whether a missing number comes out of order. */
  #await(channel: string, isOpen: boolean): void {
    if (!isOpen) {
      clearTimeout(this.#holes.get(channel));
      this.#holes.delete(channel);
    } else if (!this.#holes.has(channel)) {
      this.#holes.set(channel, setTimeout(() => (this.#holes.delete(channel), this.#watched.get(channel)?.watched.giveUp()), HOLE_MS));
    }
  }

  #say(message: object): void {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(message));
  }

  async #ticket(): Promise<{ ticket: string; url: string }> {
    const answer = await this.#send(`${this.#config.apiUrl.replace(/\/+$/, "")}/api/v1/realtime/ticket`, { method: "POST" });
    if (!answer.ok) throw await refusal(answer);
    return ((await answer.json()) as { data: { ticket: string; url: string } }).data;
  }
}
