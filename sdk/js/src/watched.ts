/** The number of a collection's message; docs/realtime.md. */
export interface Head {
  epoch: string;
  seq: number;
  prev?: number;
}

/** What a callback of `KarmaLive.subscribe` is told. */
export interface LiveEvent {
  channel: string;
  /** `gap`: something was missed that cannot be told; read by the API what you show. */
  kind: "changed" | "deleted" | "appended" | "gap";
  /** `<kind>:<id>`; "" of a gap. */
  object: string;
  version?: number;
  seq?: number;
  prev?: number;
  at?: string | null;
  /** Path of the API where the same is read; without `data` it has to be. */
  ref?: string;
  data?: Record<string, unknown>;
}

export interface Message extends LiveEvent {
  type: "event";
  head?: Head;
}

export interface Acknowledgement {
  type: "ack";
  action: "subscribe" | "unsubscribe";
  channel: string;
  objects: Record<string, number>;
  events: Message[];
  head?: Head;
  gap?: boolean;
  missed: number;
}

/** Number that no version exceeds: of what is gone for good. */
const GONE = Number.MAX_SAFE_INTEGER;
const MOST_HELD = 200;

/**
 * What a client holds of one channel, and what of the messages is news.
 *
 * Messages come twice, late and in any order. So each object has the greatest version that came, each log the last piece
 * without a hole, and a collection the last number without a hole.
 */
export class Watched {
  readonly #versions = new Map<string, number>();
  #head: Head | undefined;
  /** Numbers behind one that is missing still. */
  readonly #ahead = new Set<number>();
  /** Number up to which a list that the application reads has everything. */
  #floor = -1;
  /** Events that came before the acknowledgement; undefined: it has come. */
  #early: Message[] | undefined = [];

  constructor(
    readonly channel: string,
    private readonly tell: (event: LiveEvent) => void,
    /** Asks to subscribe once more: a piece of a log is missing. */
    private readonly again: () => void,
    /** Says that a number is missing, or that none is any more. */
    private readonly hole: (isOpen: boolean) => void,
  ) {}

  /** Begins to subscribe; returns what is held. */
  held(): { objects: Record<string, number>; head?: Head } {
    this.#early ??= [];
    const objects = Object.fromEntries([...this.#versions].slice(-MOST_HELD));
    return this.#head === undefined ? { objects } : { objects, head: { epoch: this.#head.epoch, seq: this.#head.seq } };
  }

  acknowledged(message: Acknowledgement): void {
    const early = this.#early ?? [];
    this.#early = undefined;
    if (message.head !== undefined) {
      const isFirst = this.#head === undefined;
      this.#count(message.head);
      if (isFirst || message.gap) this.#gap(message.head.seq);
    } else {
      for (const [object, version] of this.#versions) {
        if (object in message.objects || version === GONE || /^(log|messages):/.test(object)) continue;
        this.#versions.set(object, GONE);
        this.tell({ channel: this.channel, kind: "deleted", object, version });
      }
    }
    for (const event of [...message.events, ...early]) this.take(event);
  }

  take(event: Message): void {
    if (this.#early !== undefined) this.#early.push(event);
    else if (event.head === undefined || this.#numbered(event.head)) this.#news(event);
  }

  /** Gives the missing numbers up: the application reads its lists again. */
  giveUp(): void {
    if (this.#head === undefined || this.#ahead.size === 0) return;
    const seq = Math.max(...this.#ahead);
    this.#count({ epoch: this.#head.epoch, seq });
    this.#gap(seq);
  }

  #count(head: Head): void {
    this.#head = { epoch: head.epoch, seq: head.seq };
    this.#ahead.clear();
    this.hole(false);
  }

  #gap(seq: number): void {
    this.#floor = seq;
    this.tell({ channel: this.channel, kind: "gap", object: "" });
  }

  /** Notes an event's number; false: the list that the application reads has what it tells. */
  #numbered(head: Head): boolean {
    const held = this.#head;
    if (held === undefined || held.epoch !== head.epoch) {
      this.#count(head);
      this.#gap(head.seq);
      return false;
    }
    if (head.seq > held.seq) this.#ahead.add(head.seq);
    while (this.#ahead.delete(held.seq + 1)) held.seq += 1;
    this.hole(this.#ahead.size > 0);
    return head.seq > this.#floor;
  }

  #news(event: Message): void {
    const { type: _, head: __, ...told } = event;
    const held = this.#versions.get(event.object) ?? (event.kind === "appended" ? undefined : -1);
    if (event.kind === "appended") {
      const [seq, prev] = [event.seq ?? 0, event.prev ?? 0];
      if (held !== undefined && seq <= held) return;
      // Who holds nothing of a log yet begins where it begins.
      if (held === undefined ? prev > 0 : prev !== held) return this.again();
      this.#versions.set(event.object, seq);
    } else {
      const version = event.version ?? 0;
      if (version <= (held ?? -1)) return;
      this.#versions.set(event.object, version);
    }
    this.tell(told);
  }
}
