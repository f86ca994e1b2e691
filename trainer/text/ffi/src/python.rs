//! What a chat template expects of Python: its string methods, its whitespace, json.dumps and strftime.

use minijinja::value::{from_args, Kwargs, StringInput, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

/// str.isspace counts the four separators U+001C to U+001F in, Unicode's White_Space does not.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

pub fn trim(text: StringInput<'_>, chars: Option<&str>) -> String {
    strip("strip", text.as_str(), chars).to_owned()
}

fn strip<'a>(method: &str, text: &'a str, chars: Option<&str>) -> &'a str {
    let drops = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    match method {
        "lstrip" => text.trim_start_matches(drops),
        "rstrip" => text.trim_end_matches(drops),
        _ => text.trim_matches(drops),
    }
}

/// Methods of str, dict and list, called on template values.
pub fn call_method(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.as_str(), method) {
        (Some(text), "strip" | "lstrip" | "rstrip") => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Ok(Value::from(strip(method, text, chars)))
        }
        (Some(text), "split") if args.is_empty() => {
            Ok(text.split(is_space).filter(|word| !word.is_empty()).map(Value::from).collect())
        }
        (Some(text), "removeprefix" | "removesuffix") => {
            let (part,): (&str,) = from_args(args)?;
            let shorter = if method == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Ok(Value::from(shorter.unwrap_or(text)))
        }
        _ => unknown_method_callback(state, value, method, args),
    }
}

/// json.dumps(value, ensure_ascii, indent, separators, sort_keys), with ensure_ascii off unless asked for.
pub fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let indent = match options.get::<Option<Value>>("indent")? {
        Some(indent) if indent.kind() == ValueKind::String => Some(indent.to_string()),
        Some(indent) if !indent.is_none() => Some(" ".repeat(usize::try_from(indent)?.min(64))),
        _ => None,
    };
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators must be a pair")),
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let mut dumper = Dumper { ensure_ascii, sort_keys, indent, item, key, out: String::new() };
    dumper.value(&value, 0)?;
    Ok(dumper.out)
}

const MAX_DEPTH: usize = 64;

struct Dumper {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item: String,
    key: String,
    out: String,
}

impl Dumper {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: deeper than {MAX_DEPTH} levels")));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&value.to_string()),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<_> = value.try_iter()?.map(|item| (None, item)).collect();
                self.group(['[', ']'], items, depth)?;
            }
            ValueKind::Map => {
                let mut items = Vec::new();
                for key in value.try_iter()? {
                    items.push((Some(key.to_string()), value.get_item(&key)?));
                }
                if self.sort_keys {
                    items.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.group(['{', '}'], items, depth)?;
            }
            kind => return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {kind} is not JSON"))),
        }
        Ok(())
    }

    fn group(&mut self, brackets: [char; 2], items: Vec<(Option<String>, Value)>, depth: usize) -> Result<(), Error> {
        self.out.push(brackets[0]);
        for (index, (key, value)) in items.iter().enumerate() {
            if index > 0 {
                self.out.push_str(&self.item);
            }
            self.new_line(depth + 1);
            if let Some(key) = key {
                self.string(key);
                self.out.push_str(&self.key);
            }
            self.value(value, depth + 1)?;
        }
        if !items.is_empty() {
            self.new_line(depth);
        }
        self.out.push(brackets[1]);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// datetime.fromtimestamp(seconds).strftime(format)
pub fn strftime(format: &str, seconds: i64) -> Result<String, Error> {
    let refuse = |reason: &str| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {reason}"));
    let format = std::ffi::CString::new(format).map_err(|_| refuse("the format holds a NUL"))?;
    if format.is_empty() {
        return Ok(String::new());
    }
    let mut out = [0u8; 256];
    // SAFETY: all pointers are to locals; strftime writes at most out.len() bytes.
    let length = unsafe {
        let mut date: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&seconds, &mut date).is_null() {
            return Err(refuse("the clock is out of range"));
        }
        libc::strftime(out.as_mut_ptr().cast(), out.len(), format.as_ptr(), &date)
    };
    if length == 0 {
        return Err(refuse("the date has more than 255 bytes"));
    }
    String::from_utf8(out[..length].to_vec()).map_err(|_| refuse("the date is not UTF-8"))
}
