export { KarmaError, type Access } from "./access.js";
export { KarmaAgent, argumentsOf, type Approval, type CallMetadata, type KarmaAgentConfig } from "./agent.js";
export { Continuity, type Event } from "./continuity.js";
export { KarmaLive, type KarmaLiveConfig } from "./live.js";
export { reattaching, type ReattachingOptions, type Send } from "./reattaching.js";
export { type LiveEvent } from "./watched.js";
