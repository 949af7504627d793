//! A worker on the official Rust SDK, as a program of its own: `iii-anyio-interop URL TAG`.
//! tests/conformance/judging.py says what it registers and which commands it understands.
#![allow(deprecated)] // triggers and streams are deprecated upstream

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use iii_helpers::http::{HttpInvocationConfig, HttpMethod};
use iii_helpers::stream::{
    StreamDeleteInput, StreamDeleteResult, StreamGetInput, StreamListGroupsInput, StreamListInput,
    StreamSetInput, StreamSetResult, StreamUpdateInput, StreamUpdateResult,
};
use iii_sdk::channel::{ChannelReader, ChannelWriter, StreamChannelRef};
use iii_sdk::helpers::{create_channel, create_stream};
use iii_sdk::iii::{RegisterTriggerType, WorkerMetadata};
use iii_sdk::protocol::{RegisterTriggerInput, TriggerRequest};
use iii_sdk::trigger::{Trigger, TriggerConfig, TriggerHandler};
use iii_sdk::{
    register_worker, Capture, Error, IIIClient, IStream, InitOptions, RegisterFunction, Source, TriggerAction,
};
use serde_json::{json, Value};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::Notify;

/// What arrived, until the judge takes it.
#[derive(Clone, Default)]
struct Inbox {
    items: Arc<Mutex<Vec<Value>>>,
    changed: Arc<Notify>,
}

impl Inbox {
    fn put(&self, item: Value) {
        self.items.lock().unwrap().push(item);
        self.changed.notify_one();
    }

    /// Waits until there are so many; all there are.
    async fn take(&self, count: usize) -> Vec<Value> {
        loop {
            {
                let mut items = self.items.lock().unwrap();
                if items.len() >= count {
                    return std::mem::take(&mut *items);
                }
            }
            self.changed.notified().await;
        }
    }
}

struct Bindings(Inbox);

#[async_trait]
impl TriggerHandler for Bindings {
    async fn register_trigger(&self, config: TriggerConfig) -> Result<(), Error> {
        let refused = config.config == "refuse";
        self.0.put(json!(["bind", config.id, config.function_id, config.config, config.metadata]));
        if refused {
            return Err("the official one refuses".into());
        }
        Ok(())
    }

    async fn unregister_trigger(&self, config: TriggerConfig) -> Result<(), Error> {
        self.0.put(json!(["unbind", config.id]));
        Ok(())
    }
}

/// A stream kept in a map.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<(String, String), Value>>);

#[async_trait]
impl IStream for Memory {
    async fn get(&self, input: StreamGetInput) -> Result<Option<Value>, Error> {
        Ok(self.0.lock().unwrap().get(&(input.group_id, input.item_id)).cloned())
    }

    async fn set(&self, input: StreamSetInput) -> Result<Option<StreamSetResult>, Error> {
        let old_value = self.0.lock().unwrap().insert((input.group_id, input.item_id), input.data.clone());
        Ok(Some(StreamSetResult { old_value, new_value: input.data }))
    }

    async fn delete(&self, input: StreamDeleteInput) -> Result<StreamDeleteResult, Error> {
        let old_value = self.0.lock().unwrap().remove(&(input.group_id, input.item_id));
        Ok(StreamDeleteResult { old_value })
    }

    async fn list(&self, input: StreamListInput) -> Result<Vec<Value>, Error> {
        let items = self.0.lock().unwrap();
        Ok(items.iter().filter(|((group, _), _)| *group == input.group_id).map(|(_, item)| item.clone()).collect())
    }

    async fn list_groups(&self, _input: StreamListGroupsInput) -> Result<Vec<String>, Error> {
        let mut groups: Vec<String> = self.0.lock().unwrap().keys().map(|(group, _)| group.clone()).collect();
        groups.dedup();
        Ok(groups)
    }

    async fn update(&self, _input: StreamUpdateInput) -> Result<Option<StreamUpdateResult>, Error> {
        Ok(None)
    }
}

struct Site {
    iii: IIIClient,
    url: String,
    tag: String,
}

impl Site {
    fn id(&self, name: &str) -> String {
        format!("{}::official::{name}", self.tag)
    }

    fn function<F, Out>(&self, name: &str, handler: F)
    where
        F: Fn(Value, Value) -> Out + Send + Sync + 'static,
        Out: Future<Output = Result<Value, Error>> + Send + 'static,
    {
        self.iii.register_function(
            self.id(name),
            RegisterFunction::new_async(move |data: Value, metadata: Option<Value>| {
                handler(data, metadata.unwrap_or_default())
            }),
        );
    }
}

fn end(url: &str, data: &Value) -> (String, StreamChannelRef) {
    (url.to_string(), serde_json::from_value(data.clone()).expect("a channel"))
}

async fn read(reader: ChannelReader) -> Result<(Vec<u8>, Vec<String>), Error> {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let seen = notes.clone();
    reader.on_message(move |text| seen.lock().unwrap().push(text)).await;
    let content = reader.read_all().await?;
    let notes = notes.lock().unwrap().clone();
    Ok((content, notes))
}

async fn write(writer: &ChannelWriter, count: u64) -> Result<Value, Error> {
    writer.send_message("note").await?;
    writer.write("hello".repeat(count as usize).as_bytes()).await?;
    writer.close().await?;
    Ok(Value::Null)
}

fn register(site: &Site, heard: &Inbox, told: &Inbox) {
    site.function("add", |data, _| async move {
        Ok(json!(data["a"].as_i64().unwrap_or_default() + data["b"].as_i64().unwrap_or_default()))
    });
    site.function("double", |data, _| async move { Ok(json!(data.as_i64().unwrap_or_default() * 2)) });
    site.function("none", |_, _| async move { Ok(Value::Null) });
    site.function("fail", |_, _| async move { Err("out of stock".into()) });
    site.function("meta", |data, metadata| async move { Ok(json!([data, metadata])) });
    site.function("http", |request, _| async move {
        Ok(json!({
            "status_code": 201,
            "body": [request["method"], request["path_params"], request["query_params"], request["body"]],
            "headers": {"x-served-by": "official"},
        }))
    });
    let url = site.url.clone();
    site.function("stream", move |request, _| {
        let (base, body) = end(&url, &request["request_body"]);
        let (_, response) = end(&url, &request["response"]);
        async move {
            let (content, _) = read(ChannelReader::new(&base, &body)).await?;
            let writer = ChannelWriter::new(&base, &response);
            writer.send_message(&json!({"type": "set_status", "status_code": 202}).to_string()).await?;
            let headers = json!({"x-served-by": "official", "content-type": "text/plain"});
            writer.send_message(&json!({"type": "set_headers", "headers": headers}).to_string()).await?;
            for part in [b"<", content.as_slice(), b">"] {
                writer.write(part).await?;
            }
            writer.close().await?;
            Ok(Value::Null)
        }
    });
    site.function("length", |data, _| async move { Ok(json!(data.as_str().unwrap_or_default().chars().count())) });
    let inbox = heard.clone();
    site.function("note", move |data, _| {
        inbox.put(data);
        async move { Ok(Value::Null) }
    });
    let url = site.url.clone();
    site.function("read", move |data, _| {
        let (base, reader) = end(&url, &data["reader"]);
        async move {
            let (content, notes) = read(ChannelReader::new(&base, &reader)).await?;
            let start = String::from_utf8_lossy(&content[..5.min(content.len())]).to_string();
            Ok(json!({"size": content.len(), "start": start, "notes": notes}))
        }
    });
    let url = site.url.clone();
    site.function("write", move |data, _| {
        let (base, writer) = end(&url, &data["writer"]);
        async move { write(&ChannelWriter::new(&base, &writer), data["count"].as_u64().unwrap_or_default()).await }
    });
    let iii = site.iii.clone();
    site.function("pipe", move |data, _| {
        let iii = iii.clone();
        async move {
            let channel = create_channel(&iii, None).await?;
            let to = data["to"].as_str().unwrap_or_default();
            let asking = iii.trigger(TriggerRequest::new(to, json!({"reader": channel.reader_ref})));
            let (answer, written) =
                tokio::join!(asking, write(&channel.writer, data["count"].as_u64().unwrap_or_default()));
            written.and(answer)
        }
    });
    let tag = site.tag.clone();
    site.function("auth", move |request, _| {
        let allowed = format!("{tag}::ours::add");
        async move {
            if request["headers"]["x-token"] != "right" {
                return Err("wrong token".into());
            }
            Ok(json!({"allowed_functions": [allowed], "forbidden_functions": [], "context": {"user": "ann"}}))
        }
    });
    site.function("hook", |request, _| async move {
        if request["function_id"].as_str().unwrap_or_default().contains("denied") {
            return Err("not this one".into());
        }
        Ok(json!({"metadata": {"checked": request["context"]["user"]}}))
    });
    site.function("middleware", |request, _| async move {
        Ok(json!({
            "seen": request["function_id"],
            "payload": request["payload"],
            "user": request["context"]["user"],
        }))
    });
    site.iii.register_trigger_type(RegisterTriggerType::new(
        site.id("").trim_end_matches("::"),
        "Of the official SDK",
        Bindings(told.clone()),
    ));
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_string)
}

async fn trigger(iii: &IIIClient, command: &Value) -> Value {
    let wanted = &command["trigger"];
    let payload = match command["kib"].as_u64() {
        Some(size) => json!("é".repeat(size as usize * 512)),
        None => wanted["payload"].clone(),
    };
    let mut request = TriggerRequest::new(wanted["function_id"].as_str().unwrap_or_default(), payload);
    request.timeout_ms = wanted["timeout_ms"].as_u64();
    request.action = serde_json::from_value::<Option<TriggerAction>>(wanted["action"].clone()).expect("an action");
    let answer = match wanted.get("metadata") {
        Some(metadata) => iii.trigger(request.metadata(metadata.clone())).await,
        None => iii.trigger(request).await,
    };
    match answer {
        Ok(result) => json!({"result": result}),
        Err(error) => match error.invocation_error() {
            Some(known) => json!({"error": [known.code, known.message]}),
            None => json!({"error": ["", error.to_string()]}),
        },
    }
}

async fn obey(site: &Site, heard: &Inbox, told: &Inbox, bound: &mut Vec<Trigger>, command: &Value) -> Value {
    if let Some(wanted) = command.get("bind") {
        let mut input = RegisterTriggerInput::new(
            text(&wanted["type"]).unwrap_or_default(),
            text(&wanted["function_id"]).unwrap_or_default(),
            wanted["config"].clone(),
        );
        input.metadata = wanted.get("metadata").cloned();
        bound.push(site.iii.register_trigger(input).expect("a trigger"));
        return json!({"bound": bound.len() - 1});
    }
    if let Some(number) = command["unbind"].as_u64() {
        bound[number as usize].unregister();
        return json!({"unbound": number});
    }
    if let Some(count) = command["told"].as_u64() {
        return json!({"told": told.take(count as usize).await});
    }
    if let Some(count) = command["heard"].as_u64() {
        return json!({"heard": heard.take(count as usize).await});
    }
    if let Some(name) = text(&command["stream"]) {
        create_stream(&site.iii, name.clone(), Memory::default());
        return json!({"stream": name});
    }
    if let Some(wanted) = command.get("observe") {
        let source = Source::function(text(&wanted["function_id"]).unwrap_or_default())
            .capture(serde_json::from_value::<Vec<Capture>>(wanted["capture"].clone()).expect("what to capture"));
        let handle = site.iii.observe(source, site.id("note").as_str());
        handle.ready().await.expect("an observer");
        return json!({"observe": wanted});
    }
    if let Some(url) = text(&command["external"]) {
        let method = HttpMethod::Post;
        let config =
            HttpInvocationConfig { url: url.clone(), method, timeout_ms: None, headers: HashMap::new(), auth: None };
        site.iii.register_function(site.id("external"), RegisterFunction::http(config));
        return json!({"external": url});
    }
    trigger(&site.iii, command).await
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (url, tag) = (arguments.next().expect("a URL"), arguments.next().expect("a tag"));
    let metadata = WorkerMetadata { name: format!("{tag}::official"), ..Default::default() };
    let iii = register_worker(&url, InitOptions { metadata: Some(metadata), ..Default::default() });
    iii.wait_until_registered(Duration::from_secs(10)).await.expect("an engine");
    let (heard, told) = (Inbox::default(), Inbox::default());
    let site = Site { iii: iii.clone(), url, tag };
    register(&site, &heard, &told);
    // Registering brings no answer; this one says that the engine has handled all of the above.
    iii.trigger(TriggerRequest::new("engine::triggers::list", json!({}))).await.expect("an answer");
    println!("{}", json!({"ready": true}));
    let mut bound = Vec::new();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.expect("a line") {
        let command = serde_json::from_str(&line).expect("a command");
        println!("{}", obey(&site, &heard, &told, &mut bound, &command).await);
    }
    iii.shutdown_async().await;
    println!("{}", json!({"over": true}));
}
