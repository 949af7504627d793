// A worker on the official Node SDK with its telemetry on: node traced.mjs URL. Ends when its input does.

import { registerWorker } from "iii-sdk";

console.log = console.info = console.debug = () => {}; // stdout is for the one line below

const iii = registerWorker(process.argv[2], { workerName: "prices", otel: { serviceName: "prices" } });

iii.registerFunction("prices::gross", async ({ item, net }) => {
  const gross = await iii.trigger({ function_id: "tax::add", payload: { item, net } });
  return { gross, by: "node" };
});

await iii.trigger({ function_id: "engine::triggers::list", payload: {} }); // the engine knows the above
process.stdout.write("ready\n");
process.stdin.resume();
process.stdin.on("end", () => iii.shutdown().then(() => process.exit(0)));
