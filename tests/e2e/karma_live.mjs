// Prints what the package's live channel tells, a JSON line each.
// usage: node karma_live.mjs DIST API_URL TOKEN CHANNEL
import { pathToFileURL } from "node:url";

const [dist, apiUrl, token, channel] = process.argv.slice(2);
const { KarmaLive } = await import(pathToFileURL(`${dist}/live.js`));
const live = new KarmaLive({ apiUrl, token, onError: (error) => console.error(String(error)) });
live.subscribe(channel, (event) => console.log(JSON.stringify(event)));
process.stdin.on("end", () => live.close()).resume();
