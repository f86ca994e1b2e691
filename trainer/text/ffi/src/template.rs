//! Chat templates, in the environment that transformers gives them and within limits that it does not set.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use minijinja::{context, AutoEscape, Environment, Error, ErrorKind, Value};
use serde::Serialize;

use crate::budget::{run_within, Budget};
use crate::{generation, python};

const MAX_SOURCE_BYTES: usize = 1 << 20;
const MAX_OUTPUT_BYTES: usize = 32 << 20;
const FUEL: u64 = 1_000_000; // a message of the templates in use takes 50 to 200
const BUDGET: Budget = Budget { memory_bytes: 256 << 20, stack_bytes: 256 << 20, time: Duration::from_secs(30) };

#[derive(Serialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

pub struct Template {
    environment: Arc<Environment<'static>>,
    variables: Value,
    name: String,
}

impl Template {
    pub fn compile(source: &str, name: &str, variables: &str, now: i64) -> Result<Template, String> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(format!("{name}: a template of {} bytes; at most {MAX_SOURCE_BYTES} are read", source.len()));
        }
        let variables: serde_json::Value = serde_json::from_str(variables).map_err(|e| e.to_string())?;
        let mut environment = sandbox(now);
        environment
            .add_template_owned(name.to_owned(), generation::as_plain_blocks(source))
            .map_err(|error| describe(&error, name))?;
        Ok(Template {
            environment: Arc::new(environment),
            variables: Value::from_serialize(variables),
            name: name.to_owned(),
        })
    }

    pub fn render(&self, messages: Vec<Message>, add_generation_prompt: bool) -> Result<String, String> {
        let (environment, variables) = (Arc::clone(&self.environment), self.variables.clone());
        let name = self.name.clone();
        let work = move || {
            let variables = context! {
                messages => messages, tools => (), documents => (), add_generation_prompt => add_generation_prompt,
                ..variables
            };
            let mut out = Bounded(Vec::new());
            let template = environment.get_template(&name).map_err(|error| describe(&error, &name))?;
            template.render_captured_to(variables, &mut out).map_err(|error| describe(&error, &name))?;
            String::from_utf8(out.0).map_err(|_| format!("{name}: the text is not valid UTF-8"))
        };
        run_within(&BUDGET, work).unwrap_or_else(|reason| {
            let (memory, time) = (BUDGET.memory_bytes >> 20, BUDGET.time.as_secs());
            Err(format!("{}: the template {reason} (limits: {memory} MiB, {time} s); use another one", self.name))
        })
    }
}

/// trim_blocks, lstrip_blocks and the names that transformers defines; nothing that reads a file or the environment.
fn sandbox(now: i64) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(python::call_method);
    environment.remove_global("debug");
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("trim", python::trim);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("the template refuses this conversation: {message}")))
    });
    environment.add_function("strftime_now", move |format: &str| python::strftime(format, now));
    environment
}

/// "NAME:line: reason". The innermost error says most.
fn describe(error: &Error, name: &str) -> String {
    let line = error.line().map_or(String::new(), |line| format!("{line}:"));
    let reason = match error.kind() {
        ErrorKind::OutOfFuel => format!("the template takes more than {FUEL} steps; use another one"),
        ErrorKind::WriteFailure => format!("the text is longer than {MAX_OUTPUT_BYTES} bytes"),
        kind => error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}")),
    };
    format!("{name}:{line} {reason}")
}

struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
