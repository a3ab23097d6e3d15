// Two authorization servers that nobody here wrote (npm's oidc-provider, a certified OpenID Provider), each on a free loopback
// port: one is the provider as it comes and stands for Google, the other has GitHub's paths and GitHub's ways.
//
// What a person does at a provider (log in, agree) happens by itself; POST /_person says who. POST /_fault makes one path fail,
// or alters what it is about to answer; POST /_reset forgets both.
//
// usage: node server.mjs GOOGLE_REDIRECT_URI GITHUB_REDIRECT_URI      prints one line of JSON: {"google": url, "github": url}
import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import { importJWK, SignJWT, decodeJwt, UnsecuredJWT } from "jose";
import Provider from "oidc-provider";

const [googleRedirect, githubRedirect] = process.argv.slice(2);
const SECRET = "a-secret-of-32-characters-or-more";
const key = (kid) => ({ ...generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" }), kid, use: "sig", alg: "RS256" });
const signing = key("k1");
const strange = key("k1");

const ADA = { sub: "1001", email: "ada@example.com", email_verified: true, name: "Ada", picture: "https://example.com/ada.png" };
let person;
let fault;
const people = new Map();

function reset() {
  person = ADA;
  fault = {};
}
reset();

const client = (id, redirect) => ({ client_id: id, client_secret: SECRET, redirect_uris: [redirect], token_endpoint_auth_method: "client_secret_post" });
const common = {
  cookies: { keys: ["tests"] },
  jwks: { keys: [signing] },
  pkce: { required: () => true, methods: ["S256"] },
  features: { devInteractions: { enabled: false } },
  interactions: { url: (_, interaction) => `/_interaction/${interaction.uid}` },
  // Claims as they were at the login: another test may have changed who logs in next.
  findAccount: (_, sub) => ({ accountId: sub, claims: () => people.get(sub) }),
  ttl: { AccessToken: 300, AuthorizationCode: 60, Grant: 300, IdToken: 300, Interaction: 300, Session: 300 },
  loadExistingGrant: async (ctx) => {
    const grant = new ctx.oidc.provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
    grant.addOIDCScope([...ctx.oidc.requestParamScopes].join(" "));
    await grant.save();
    return grant;
  },
};

// id_tokens that the provider itself would never give out.
const forged = {
  alg_none: (claims) => new UnsecuredJWT(claims).encode(),
  another_key: (claims) => sign(claims, strange),
  symmetric: async (claims) => new SignJWT(claims).setProtectedHeader({ alg: "HS256", kid: "k1" }).sign(new TextEncoder().encode(SECRET)),
  unknown_kid: (claims) => sign(claims, { ...signing, kid: "k9" }),
  not_a_token: () => "x.y.z",
  missing: () => undefined,
};

async function sign(claims, jwk) {
  return new SignJWT(claims).setProtectedHeader({ alg: "RS256", kid: jwk.kid }).sign(await importJWK(jwk, "RS256"));
}

async function forge(token) {
  if (fault.id_token) return forged[fault.id_token](decodeJwt(token));
  const claims = { ...decodeJwt(token), ...fault.claims };
  for (const [name, value] of Object.entries(claims)) if (value === null) delete claims[name];
  return sign(claims, signing);
}

const google = (issuer) =>
  new Provider(issuer, {
    ...common,
    clients: [client("google-client", googleRedirect)],
    claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name", "picture"] },
    conformIdTokenClaims: false,
  });

const github = (issuer) =>
  new Provider(issuer, {
    ...common,
    clients: [client("github-client", githubRedirect)],
    scopes: ["read:user", "user:email"],
    routes: { authorization: "/login/oauth/authorize", token: "/login/oauth/access_token" },
  });

async function asGoogle(ctx, next) {
  await next();
  if (ctx.path === "/token" && ctx.body?.id_token && (fault.id_token || fault.claims)) ctx.body.id_token = await forge(ctx.body.id_token);
}

// GitHub answers refusals with 200, forms instead of JSON unless asked, and has resources of its own.
async function asGitHub(ctx, next) {
  if (ctx.path.startsWith("/api/")) {
    const token = await ctx.app.AccessToken.find((ctx.get("authorization").match(/^Bearer (\S+)$/) ?? [])[1] ?? "");
    if (!token) return void Object.assign(ctx, { status: 401, body: { message: "Bad credentials" } });
    const { sub, name, picture, login, emails, email, email_verified } = people.get(token.accountId);
    if (ctx.path === "/api/user") ctx.body = { id: Number(sub), login: login ?? "ada", name, avatar_url: picture, email: null, ...fault.user };
    if (ctx.path === "/api/user/emails") ctx.body = emails ?? [{ email, verified: email_verified, primary: true, visibility: "private" }];
    return;
  }
  await next();
  if (ctx.path === "/login/oauth/access_token" && ctx.body) {
    if (ctx.body.error === "invalid_grant") Object.assign(ctx, { status: 200, body: { error: "bad_verification_code", error_description: "The code passed is incorrect or expired." } });
    if (!ctx.get("accept").includes("application/json")) ctx.body = new URLSearchParams(ctx.body).toString();
  }
}

async function control(ctx, next) {
  if (ctx.method === "POST" && ctx.path.startsWith("/_")) {
    let text = "";
    for await (const chunk of ctx.req) text += chunk;
    if (ctx.path === "/_person") person = { ...ADA, ...JSON.parse(text) };
    if (ctx.path === "/_fault") fault = JSON.parse(text);
    if (ctx.path === "/_reset") reset();
    return void (ctx.status = 204);
  }
  if (ctx.path.startsWith("/_interaction/")) {
    people.set(person.sub, person);
    ctx.respond = false;
    const result = fault.refuses ? { error: "access_denied", error_description: "No." } : { login: { accountId: person.sub } };
    return ctx.app.interactionFinished(ctx.req, ctx.res, result);
  }
  if (fault.path !== ctx.path) return next();
  ctx.respond = false;
  const head = { "content-type": "application/json", ...fault.headers };
  switch (fault.kind) {
    case "status":
      return ctx.res.writeHead(fault.status, head).end(fault.body ?? "{}");
    case "silent":
      return;
    case "drip": {
      ctx.res.writeHead(200, head);
      const timer = setInterval(() => ctx.res.write(" "), 50);
      return ctx.res.on("close", () => clearInterval(timer));
    }
    case "huge":
      ctx.res.on("error", () => {});
      ctx.res.writeHead(200, head);
      return ctx.res.end(`{"x": "${"x".repeat(fault.bytes)}"}`);
    case "cut":
      ctx.res.writeHead(200, { ...head, "content-length": "1000" });
      return ctx.res.write('{"', () => ctx.res.destroy());
  }
}

async function serve(make, manners) {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${server.address().port}`;
  const provider = make(url);
  provider.use(control);
  provider.use(manners);
  server.on("request", provider.callback());
  return url;
}

console.log(JSON.stringify({ google: await serve(google, asGoogle), github: await serve(github, asGitHub) }));
// Whoever started this closes its standard input, or dies: either ends it.
process.stdin.on("end", () => process.exit(0)).resume();
