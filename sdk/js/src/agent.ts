import { HttpAgent, type HttpAgentConfig } from "@ag-ui/client";
import { reattaching, type ReattachingOptions, type Send } from "./reattaching.js";

export interface KarmaAgentConfig extends Omit<HttpAgentConfig, "fetch" | "url">, Omit<ReattachingOptions, "send"> {
  /** `stream_url`, without a path. */
  streamUrl: string;
  /** `api_url`, without a path; needed for control alone. */
  apiUrl?: string;
  apiKey?: string;
  /** An access token, or what returns the present one; asked before each request. */
  token?: string | (() => string | Promise<string>);
  /** A `Session` of @karma-cloud/client, or its like: sends requests with the present access token, and refreshes it. */
  session?: { fetch(request: Request): Promise<Response> };
}

/** A refusal of the API: act on `code`. */
export class KarmaError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
    this.name = "KarmaError";
  }
}

/** AG-UI's own HttpAgent, whose runs go on when their connection is cut, and can be cancelled, paused and resumed. */
export class KarmaAgent extends HttpAgent {
  // Not `#private`: AG-UI's clone makes a copy without the constructor.
  private send: Send;
  private apiUrl: string;

  constructor({ streamUrl, apiUrl = "", apiKey, token, session, patience, silenceMs, ...config }: KarmaAgentConfig) {
    const send: Send = async (url, init) => {
      const headers = new Headers(init.headers);
      if (apiKey) headers.set("X-API-Key", apiKey);
      const bearer = typeof token === "function" ? await token() : token;
      if (bearer) headers.set("Authorization", `Bearer ${bearer}`);
      const request = { ...init, headers };
      return session ? session.fetch(new Request(url, request)) : fetch(url, request);
    };
    const options = { send, ...(patience === undefined ? {} : { patience }), ...(silenceMs === undefined ? {} : { silenceMs }) };
    super({ ...config, url: `${streamUrl.replace(/\/+$/, "")}/api/v1/agent`, fetch: reattaching(options) });
    this.send = send;
    this.apiUrl = apiUrl.replace(/\/+$/, "");
  }

  override clone(): KarmaAgent {
    const copy = super.clone() as KarmaAgent;
    copy.send = this.send;
    copy.apiUrl = this.apiUrl;
    return copy;
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

  private async control(runId: string, verb: string, body: object): Promise<Record<string, unknown>> {
    if (this.apiUrl === "") throw new TypeError("`apiUrl` is needed to control runs");
    const answer = await this.send(`${this.apiUrl}/api/v1/runs/${encodeURIComponent(runId)}/${verb}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    const said = (await answer.json()) as { data?: { run: Record<string, unknown> }; error?: { code: string; message: string } };
    if (!answer.ok || said.data === undefined) {
      throw new KarmaError(answer.status, said.error?.code ?? "", said.error?.message ?? `HTTP ${answer.status}`);
    }
    return said.data.run;
  }
}
