import createFetchClient, { type Client, type ClientOptions } from "openapi-fetch";
import type { components, paths } from "./schema.js";

export type { components, paths };
export { Session, type SessionOptions, type Tokens } from "./session.js";
export type KarmaClient = Client<paths>;

/** The error of every failure: act on `code`, give `request_id` when you ask for help. */
export type KarmaError = components["schemas"]["Error"]["error"];

export interface KarmaOptions extends ClientOptions {
  /** `api_url`, without a path. */
  baseUrl: string;
  /** An access token, or what returns the present one; asked before each request. */
  token?: string | (() => string | undefined | Promise<string | undefined>);
  apiKey?: string;
}

/** Makes a client whose paths, bodies and answers are those of the API's description. */
export function createClient({ token, apiKey, ...options }: KarmaOptions): KarmaClient {
  const client = createFetchClient<paths>(options);
  client.use({
    async onRequest({ request }) {
      const bearer = typeof token === "function" ? await token() : token;
      if (bearer) request.headers.set("Authorization", `Bearer ${bearer}`);
      else if (apiKey) request.headers.set("X-API-Key", apiKey);
      return request;
    },
  });
  return client;
}
