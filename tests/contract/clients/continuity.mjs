// Follows runs as a connection's bytes come: for each line of standard input, one of standard output.
// usage: node continuity.mjs FOLDER: the compiled package. A line is null (another run begins) or pieces of one connection.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const folder = pathToFileURL(`${process.argv[2]}/`);
const { Continuity } = await import(new URL("continuity.js", folder));
const { FrameReader } = await import(new URL("sse.js", folder));
let continuity = new Continuity();
for await (const line of createInterface({ input: process.stdin })) {
  const pieces = JSON.parse(line);
  const events = [];
  if (pieces === null) continuity = new Continuity();
  else {
    const reader = new FrameReader();
    for (const piece of pieces) {
      for (const { data, id } of reader.feed(Buffer.from(piece, "base64"))) {
        events.push(...continuity.take(data === "" ? undefined : JSON.parse(data), id === undefined ? undefined : Number(id)));
      }
    }
    continuity.reconnect();
  }
  console.log(JSON.stringify({ events, isOver: continuity.isOver, position: continuity.position }));
}
