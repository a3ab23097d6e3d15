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
