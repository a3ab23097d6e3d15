/** A pair of tokens, as logging in and refreshing answer it. */
export interface Tokens {
  access_token: string;
  refresh_token: string;
}

export interface SessionOptions {
  /** `api_url`, without a path. */
  baseUrl: string;
  tokens: Tokens;
  /** Is told each new pair before a request uses it: whoever starts again needs it. */
  keep?: (tokens: Tokens) => void | Promise<void>;
  fetch?: (request: Request) => Promise<Response>;
}

/**
 * Keeps a caller logged in: `fetch` of a client, by which each request gets the present access token, and a 401 gets a
 * new one, once. A refresh token is good for one trade, so requests that fail at the same time share one.
 */
export class Session {
  #tokens: Tokens;
  #trade: Promise<void> | undefined;
  readonly #options: SessionOptions;

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#tokens = options.tokens;
  }

  /** The present one, for other clients such as that of streams. */
  get accessToken(): string {
    return this.#tokens.access_token;
  }

  readonly fetch = async (request: Request): Promise<Response> => {
    const again = request.clone(); // a body can be sent once
    const used = this.accessToken;
    const answer = await this.#send(request, used);
    if (answer.status !== 401) return answer;
    if (used === this.accessToken) {
      this.#trade ??= this.#refresh().finally(() => (this.#trade = undefined));
      await this.#trade;
    }
    return used === this.accessToken ? answer : this.#send(again, this.accessToken);
  };

  #send(request: Request, token: string): Promise<Response> {
    request.headers.set("Authorization", `Bearer ${token}`);
    return (this.#options.fetch ?? fetch)(request);
  }

  async #refresh(): Promise<void> {
    const request = new Request(`${this.#options.baseUrl}/api/v1/auth/refresh`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ refresh_token: this.#tokens.refresh_token }),
    });
    const answer = await (this.#options.fetch ?? fetch)(request);
    if (!answer.ok) return; // the session is over, or the API is busy: the caller sees its own 401
    const { data } = (await answer.json()) as { data: Tokens };
    this.#tokens = { access_token: data.access_token, refresh_token: data.refresh_token };
    await this.#options.keep?.(this.#tokens);
  }
}
