export { KarmaAgent, KarmaError, type KarmaAgentConfig } from "./agent.js";
export { Continuity, type Event } from "./continuity.js";
export { reattaching, type ReattachingOptions, type Send } from "./reattaching.js";
