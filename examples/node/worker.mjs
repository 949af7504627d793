// A worker in Node, with the official SDK: node worker.mjs URL. Ends when its input does.

import { registerWorker } from "iii-sdk";

const iii = registerWorker(process.argv[2], { workerName: "node-prices", otel: { enabled: false } });

iii.registerFunction("node::price", async ({ sku }) => ({ sku, net: { tea: 4.5, coffee: 7.25 }[sku] ?? null }));

// A function of the Python worker, called from here.
iii.registerFunction("node::receipt", async ({ sku }) => {
  const total = await iii.trigger({ function_id: "python::with-tax", payload: { sku } });
  return `${sku}: ${total.toFixed(2)} €`;
});

await iii.trigger({ function_id: "engine::workers::list", payload: {} }); // the engine knows all of the above
console.error("node worker is ready");
process.stdin.resume();
process.stdin.on("end", () => iii.shutdown().then(() => process.exit(0)));
