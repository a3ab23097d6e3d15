/** An AG-UI event as its JSON object. */
export interface Event {
  type: string;
  [member: string]: unknown;
}

/** Fields that name an item, by the kind of the item: `<kind>_START` begins it, `<kind>_END` ends it. */
const IDS: Record<string, string> = {
  TEXT_MESSAGE: "messageId",
  TOOL_CALL: "toolCallId",
  REASONING: "messageId",
  REASONING_MESSAGE: "messageId",
};

/**
 * Makes one stream of the several connections that a run may take.
 *
 * A run's log is committed in segments; `id: n` marks the last event of segment n. Text is sent before it is committed, so
 * when a connection is cut the client holds some events behind the last id, and the next connection, which begins behind
 * that id, brings them again: with other cuts between deltas, or not at all, when the process died before it committed
 * them. What was handed on is not handed on twice, and what turns out to be withdrawn is closed, so that any consumer of
 * AG-UI accepts the whole as one stream. The MESSAGES_SNAPSHOT that the server sends for a lost process takes it away.
 */
export class Continuity {
  /** Number of the last segment that was read whole; 0: none. */
  position = 0;
  /** The run's terminal event was handed on. */
  isOver = false;
  /** The run was paused behind what was handed on; its stream goes on when somebody has resumed it. */
  isPaused = false;
  /** Events of this connection behind the position. */
  #since: Event[] = [];
  /** Events that were handed on in earlier connections, and that this one is expected to bring again. */
  #known: Event[] = [];
  /** Texts, calls and reasoning that have begun and not ended. */
  readonly #open = new Set<string>();
  /** Those that were ended here, since the log turned out not to have them. */
  readonly #closed = new Set<string>();

  /** Begins with a new connection, which brings what is behind `position`. */
  reconnect(): void {
    this.#known = joined([...this.#since, ...this.#known]);
    this.#since = [];
  }

  /** Takes one frame, its event and the number in its id, and returns the events to hand on. */
  take(event: Event | undefined, position: number | undefined): Event[] {
    let handedOn: Event[] = [];
    if (event !== undefined) {
      this.#since.push(event);
      handedOn = this.#newIn(event);
    }
    if (position !== undefined) {
      this.position = position;
      this.#since = [];
    }
    return handedOn;
  }

  #newIn(event: Event): Event[] {
    let rest = event;
    for (;;) {
      const first = this.#known[0];
      if (first === undefined) return this.#handedOn(rest);
      if (JSON.stringify(rest) === JSON.stringify(first)) {
        this.#known.shift();
        return [];
      }
      if (!continues(first, rest)) return [...this.#forget(), ...this.#handedOn(rest)];
      const had = first["delta"] as string;
      const came = rest["delta"] as string;
      if (came.length < had.length) {
        this.#known[0] = { ...first, delta: had.slice(came.length) };
        return [];
      }
      this.#known.shift();
      if (came.length === had.length) return [];
      rest = { ...rest, delta: came.slice(had.length) };
    }
  }

  /** Returns the ends of what had begun and is not in the log; what ended comes to no second end. */
  #forget(): Event[] {
    for (const event of this.#known) {
      const item = itemOf(event);
      if (item !== undefined && event.type.endsWith("_END")) this.#closed.add(item);
    }
    const begun = this.#known.filter((event) => event.type.endsWith("_START") && itemOf(event) !== undefined);
    this.#known = [];
    const lost = begun.filter((event) => this.#open.delete(itemOf(event)!)).reverse();
    return lost.map((event) => {
      this.#closed.add(itemOf(event)!);
      const kind = kindOf(event);
      return { type: `${kind}_END`, [IDS[kind]!]: event[IDS[kind]!] };
    });
  }

  #handedOn(event: Event): Event[] {
    const item = itemOf(event);
    const part = event.type.slice(event.type.lastIndexOf("_") + 1);
    if (item !== undefined && part === "START") {
      this.#open.add(item);
      this.#closed.delete(item); // who joins a run is told anew of what is open
    }
    else if (item !== undefined && (part === "CONTENT" || part === "ARGS" || part === "END")) {
      if (this.#closed.has(item)) return [];
      if (part === "END") this.#open.delete(item); // it may have begun before this stream
    } else if (event.type === "RUN_FINISHED" || event.type === "RUN_ERROR") this.isOver = true;
    else if (event["name"] === "karma.run_paused") this.isPaused = true;
    else if (event["name"] === "karma.run_resumed") this.isPaused = false;
    return [event];
  }
}

function kindOf(event: Event): string {
  return event.type.slice(0, Math.max(0, event.type.lastIndexOf("_")));
}

function itemOf(event: Event): string | undefined {
  const kind = kindOf(event);
  const name = IDS[kind];
  return name === undefined ? undefined : `${kind} ${String(event[name])}`;
}

function deltaOf(event: Event): string | undefined {
  const item = itemOf(event);
  return item !== undefined && typeof event["delta"] === "string" ? `${event.type} ${item}` : undefined;
}

/** Tells whether both are deltas of one item, and one begins with the other. */
function continues(one: Event, other: Event): boolean {
  if (deltaOf(one) === undefined || deltaOf(one) !== deltaOf(other)) return false;
  const [had, came] = [one["delta"] as string, other["delta"] as string];
  return had.startsWith(came) || came.startsWith(had);
}

/** Joins neighbouring deltas of one item. */
function joined(events: Event[]): Event[] {
  const found: Event[] = [];
  for (const event of events) {
    const last = found.at(-1);
    if (last !== undefined && deltaOf(event) !== undefined && deltaOf(last) === deltaOf(event)) {
      found[found.length - 1] = { ...last, delta: `${String(last["delta"])}${String(event["delta"])}` };
    } else found.push(event);
  }
  return found;
}
