// What tests/devengine/test_console.py has node run: the page's worker against an engine. Prints one JSON line.
// argv: folder of the page's modules, URL of the engine, scenario.

const [folder, url, scenario] = process.argv.slice(2);
const { BrowserWorker, newTraceparent } = await import(`${folder}/wire.js`);

const becomes = (worker, state) =>
  new Promise((resolve) => {
    const look = () => worker.state === state && resolve();
    worker.addEventListener("state", look);
    look();
  });
const caught = (promise) => promise.then((value) => ({ value }), ({ code, message }) => ({ code, message }));

const worker = new BrowserWorker(url, { runtime: "browser", name: "page" }, { firstDelay: 10 });
const heard = [];
let told;
const isTold = new Promise((resolve) => { told = resolve; });
worker.register("page::double", ({ n }) => n * 2, { metadata: { internal: true } });
worker.register("page::fail", () => { throw new Error("no"); });
worker.register("page::changed", (event) => { heard.push(event); told(); });
worker.bind("state", "page::changed", { scope: "s" });

const scenarios = {
  async calls() {
    const early = await caught(worker.call("engine::workers::list"));
    worker.open();
    await becomes(worker, "connected");
    const answers = {
      early,
      double: await caught(worker.call("page::double", { n: 21 })),
      fail: await caught(worker.call("page::fail")),
      missing: await caught(worker.call("nowhere")),
      nothing: await caught(worker.call("state::get", { scope: "s", key: "none" })),
      void: await caught(worker.call("page::double", { n: 1 }, { action: { type: "void" } })),
      traceparent: newTraceparent(),
    };
    await worker.call("state::set", { scope: "s", key: "k", value: 1 });
    await isTold;
    worker.close();
    return { ...answers, heard: heard.map(({ event_type, key }) => [event_type, key]), closed: worker.state };
  },
  // The other side drops the first link when it is told to: a call runs then.
  async reconnects() {
    worker.open();
    await becomes(worker, "connected");
    const first = worker.workerId;
    const lost = await caught(worker.call("cut"));
    await becomes(worker, "reconnecting");
    await becomes(worker, "connected");
    const again = await caught(worker.call("page::double", { n: 4 }));
    const second = worker.workerId;
    worker.close();
    return { lost, again, isNew: first !== second };
  },
  async refused() {
    worker.open();
    await becomes(worker, "failed");
    return { problem: worker.problem };
  },
};
console.log(JSON.stringify(await scenarios[scenario]()));
