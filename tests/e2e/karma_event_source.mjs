// Prints what a stock EventSource is told, a JSON line each, with the id behind which it would come back.
// usage: node karma_event_source.mjs STREAM_URL TOKEN CHANNEL...
import { EventSource } from "eventsource";

const [streamUrl, token, ...channels] = process.argv.slice(2);
const source = new EventSource(`${streamUrl}/api/v1/realtime/stream?channels=${encodeURIComponent(channels.join(" "))}`, {
  fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, Authorization: `Bearer ${token}` } }),
});
source.onmessage = ({ data, lastEventId }) => console.log(JSON.stringify({ ...JSON.parse(data), lastEventId }));
source.onerror = ({ code }) => console.log(JSON.stringify({ type: "cut", code: code ?? 0, state: source.readyState }));
process.stdin.on("end", () => source.close()).resume();
