import type { Send } from "./reattaching.js";

/** How requests prove who sends them. */
export interface Access {
  apiKey?: string;
  /** An access token, or what returns the present one; asked before each request. */
  token?: string | (() => string | Promise<string>);
  /** A `Session` of @karma-cloud/client, or its like: sends requests with the present access token, and refreshes it. */
  session?: { fetch(request: Request): Promise<Response> };
}

/** Sends requests with what `access` has. */
export function sender({ apiKey, token, session }: Access): Send {
  return async (url, init) => {
    const headers = new Headers(init.headers);
    if (apiKey) headers.set("X-API-Key", apiKey);
    const bearer = typeof token === "function" ? await token() : token;
    if (bearer) headers.set("Authorization", `Bearer ${bearer}`);
    const request = { ...init, headers };
    return session ? session.fetch(new Request(url, request)) : fetch(url, request);
  };
}

/** A refusal of the API: act on `code`. `details` are as docs/api.md describes them for that code, as of THREAD_BUSY the `run_id`. */
export class KarmaError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly details?: unknown,
    /** Seconds after which the API wants to be asked again; undefined: it did not say. */
    readonly retryAfterS?: number,
  ) {
    super(message);
    this.name = "KarmaError";
  }
}

/** Reads what a refusal says; a proxy's may say nothing. */
export async function refusal(answer: Response): Promise<KarmaError> {
  const said = (await answer.json().catch(() => ({}))) as { error?: { code?: string; message?: string; details?: unknown } };
  const after = answer.headers.get("Retry-After") ?? "";
  const { code = "", message = `HTTP ${answer.status}`, details } = said.error ?? {};
  return new KarmaError(answer.status, code, message, details, /^[0-9]+$/.test(after) ? Number(after) : undefined);
}
