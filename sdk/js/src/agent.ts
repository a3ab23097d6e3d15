import {
  HttpAgent,
  buildResumeArray,
  runHttpRequest,
  transformHttpEventStream,
  type HttpAgentConfig,
  type RunAgentParameters,
  type RunAgentResult,
} from "@ag-ui/client";
import { refusal, sender, type Access } from "./access.js";
import { joined, reattaching, type ReattachingOptions, type Send } from "./reattaching.js";

export interface KarmaAgentConfig extends Omit<HttpAgentConfig, "fetch" | "url">, Omit<ReattachingOptions, "send">, Access {
  /** `stream_url`, without a path. */
  streamUrl: string;
  /** `api_url`, without a path; needed for control alone. */
  apiUrl?: string;
}

/** What an interrupt says of the call that it asks about, a subagent's too. */
export interface CallMetadata {
  toolName?: string;
  /** JSON of the arguments with which the call is made. */
  arguments?: string;
  /** `arguments` is only the beginning of it: all of it is longer than what is shown. */
  argumentsCut?: true;
}

/** The arguments with which the call is made that an interrupt asks about; undefined: it asks about none, or they are too long to be shown. */
export function argumentsOf(interrupt: { metadata?: Record<string, unknown> }): unknown {
  const { arguments: text, argumentsCut } = (interrupt.metadata ?? {}) as CallMetadata;
  return text === undefined || argumentsCut ? undefined : JSON.parse(text);
}

/** What to do with a call that waits to be approved. */
export interface Approval {
  approved: boolean;
  /** Arguments to call the tool with instead of the model's. */
  editedArgs?: Record<string, unknown>;
  /** Why it is refused; the model is told. */
  reason?: string;
}

/** AG-UI's own HttpAgent, whose runs go on when their connection is cut, and can be cancelled, paused and resumed. */
export class KarmaAgent extends HttpAgent {
  // Not `#private`: AG-UI's clone makes a copy without the constructor.
  private send: Send;
  private options: ReattachingOptions;
  private apiUrl: string;

  constructor({ streamUrl, apiUrl = "", apiKey, token, session, patience, silenceMs, ...config }: KarmaAgentConfig) {
    const send = sender({ ...(apiKey ? { apiKey } : {}), ...(token ? { token } : {}), ...(session ? { session } : {}) });
    const options = { send, ...(patience === undefined ? {} : { patience }), ...(silenceMs === undefined ? {} : { silenceMs }) };
    super({ ...config, url: `${streamUrl.replace(/\/+$/, "")}/api/v1/agent`, fetch: reattaching(options) });
    this.send = send;
    this.options = options;
    this.apiUrl = apiUrl.replace(/\/+$/, "");
  }

  override clone(): KarmaAgent {
    const copy = super.clone() as KarmaAgent;
    copy.send = this.send;
    copy.options = this.options;
    copy.apiUrl = this.apiUrl;
    return copy;
  }

  /**
   * What `connectAgent({ runId })` reads: the conversation and the state of the run as they are, in the place of what this
   * agent holds, and then what follows. `abortRun` ends it; the run goes on.
   */
  protected override connect(input: Parameters<HttpAgent["run"]>[0]): ReturnType<HttpAgent["run"]> {
    const { signal } = (this.abortController = new AbortController());
    const log = new URL(`/api/v1/runs/${encodeURIComponent(input.runId)}/events`, this.url);
    return transformHttpEventStream(runHttpRequest(() => joined(log, signal, this.options)));
  }

  /** Stops a run for good. One that was cancelled before stays so; one that has ended otherwise is refused. */
  cancelRun(runId: string, reason?: string): Promise<Record<string, unknown>> {
    return this.control(runId, "cancel", reason === undefined ? {} : { reason });
  }

  /** Stops a run until it is resumed. */
  pauseRun(runId: string): Promise<Record<string, unknown>> {
    return this.control(runId, "pause", {});
  }

  /** Lets a paused run go on. */
  resumeRun(runId: string): Promise<Record<string, unknown>> {
    return this.control(runId, "resume", {});
  }

  /** Approves the open interrupts with these ids, all of them without any, and refuses the others; the run goes on. */
  approve(ids?: readonly string[], parameters: RunAgentParameters = {}): Promise<RunAgentResult> {
    return this.answer((id) => ({ approved: ids?.includes(id) ?? true }), parameters);
  }

  /** Refuses all open interrupts; the model is told why. */
  refuse(reason?: string, parameters: RunAgentParameters = {}): Promise<RunAgentResult> {
    return this.answer(() => (reason === undefined ? { approved: false } : { approved: false, reason }), parameters);
  }

  /** Answers each open interrupt by `payload`: an approval, or whatever its `responseSchema` asks for; null cancels it. */
  answer(payload: (id: string) => Approval | Record<string, unknown> | null, parameters: RunAgentParameters = {}): Promise<RunAgentResult> {
    const answers = this.pendingInterrupts.map(({ id }) => {
      const given = payload(id);
      return [id, given === null ? { status: "cancelled" as const } : { status: "resolved" as const, payload: given }] as const;
    });
    return this.runAgent({ ...parameters, resume: buildResumeArray(this.pendingInterrupts, Object.fromEntries(answers)) });
  }

  private async control(runId: string, verb: string, body: object): Promise<Record<string, unknown>> {
    if (this.apiUrl === "") throw new TypeError("`apiUrl` is needed to control runs");
    const answer = await this.send(`${this.apiUrl}/api/v1/runs/${encodeURIComponent(runId)}/${verb}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    if (!answer.ok) throw await refusal(answer);
    const said = (await answer.json()) as { data: { run: Record<string, unknown> } };
    return said.data.run;
  }
}
