// One measurement of the Node SDK, in a process of its own: node peer.mjs ROLE URL CALLS IN_FLIGHT SIZE
// The counterpart of benchmarks/peer.py; prints the same line of JSON.
import { registerWorker } from "iii-sdk";

const [role, url, ...numbers] = process.argv.slice(2);
const [calls, inFlight, size] = numbers.map(Number);
const iii = registerWorker(url, { otel: { enabled: false } });
iii.registerFunction("bench::serve", async (data) => data);

const request = { function_id: "bench::echo", payload: { text: "x".repeat(size) }, timeoutMs: 20000 };

async function drive(count) {
  let left = count;
  let errors = 0;
  const one = async () => {
    while (left > 0) {
      left -= 1;
      try {
        await iii.trigger(request);
      } catch {
        errors += 1;
      }
    }
  };
  await Promise.all(Array.from({ length: inFlight }, one));
  return errors;
}

async function flood(count) {
  const payload = { calls: count, in_flight: inFlight, size };
  const answer = await iii.trigger({ function_id: "bench::flood", payload, timeoutMs: 600000 });
  return answer.errors;
}

const work = role === "caller" ? drive : flood;
await work(Math.floor(calls / 10) + 1);
const cpu = process.cpuUsage();
const start = process.hrtime.bigint();
const errors = await work(calls);
const wall = Number(process.hrtime.bigint() - start) / 1e9;
const used = process.cpuUsage(cpu);
const report = {
  rate: calls / wall,
  cpu_us: (used.user + used.system) / calls,
  errors,
  rss_mb: process.memoryUsage().rss / 1048576,
};
console.log(JSON.stringify(report));
process.exit(0);
