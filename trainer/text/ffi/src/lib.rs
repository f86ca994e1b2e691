//! The C interface of rankwise_text.h. Each entry point turns its arguments into Rust types, calls one function of a
//! module below, and hands the error back as text. `guard` stops every panic here.

// What callers owe is said once, in rankwise_text.h.
#![allow(clippy::missing_safety_doc)]

mod budget;
mod generation;
mod python;
mod template;
mod tokenizer;

use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

use template::{Message, Template};
use tokenizer::{Token, Tokenizer};

#[repr(C)]
#[derive(Clone, Copy)]
pub struct View {
    data: *const u8,
    size: usize,
}

#[repr(C)]
pub struct Text {
    data: *mut u8,
    size: usize,
}

#[repr(C)]
pub struct Tokens {
    data: *mut Token,
    size: usize,
}

#[repr(C)]
pub struct MessageView {
    role: View,
    content: View,
}

impl Text {
    const NONE: Text = Text { data: std::ptr::null_mut(), size: 0 };

    fn new(text: String) -> Text {
        let (data, size) = into_raw(text.into_bytes());
        Text { data, size }
    }
}

fn into_raw<T>(items: Vec<T>) -> (*mut T, usize) {
    let size = items.len();
    (Box::into_raw(items.into_boxed_slice()).cast::<T>(), size)
}

/// # Safety
/// (data, size) came from `into_raw` and is not used again.
unsafe fn free_raw<T>(data: *mut T, size: usize) {
    if !data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, size)));
    }
}

/// # Safety
/// data points to size items that outlive the result, or size is 0.
unsafe fn slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        return &[];
    }
    std::slice::from_raw_parts(data, size)
}

/// # Safety
/// As for `slice`.
unsafe fn utf8<'a>(view: View, what: &str) -> Result<&'a str, String> {
    std::str::from_utf8(slice(view.data, view.size))
        .map_err(|error| format!("{what} is not valid UTF-8 at byte {}", error.valid_up_to()))
}

fn guard(work: impl FnOnce() -> Result<(), String>) -> Text {
    static QUIET: Once = Once::new();
    // The message reaches the caller as a value; the default hook would print it as well.
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => Text::NONE,
        Ok(Err(message)) => Text::new(message),
        Err(payload) => Text::new(panic_text(payload.as_ref())),
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let reason = payload.downcast_ref::<String>().map(String::as_str);
    let reason = reason.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
    format!("the text library gave up on this input: {reason}")
}

#[no_mangle]
pub unsafe extern "C" fn rw_text_free(text: Text) {
    free_raw(text.data, text.size);
}

#[no_mangle]
pub unsafe extern "C" fn rw_tokens_free(tokens: Tokens) {
    free_raw(tokens.data, tokens.size);
}

#[no_mangle]
pub unsafe extern "C" fn rw_tokenizer_load(json: View, added_tokens: View, out: *mut *mut Tokenizer) -> Text {
    guard(|| {
        let loaded = Tokenizer::load(utf8(json, "the file")?, utf8(added_tokens, "added_tokens")?)?;
        *out = Box::into_raw(Box::new(loaded));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn rw_tokenizer_free(tokenizer: *mut Tokenizer) {
    guard(|| {
        if !tokenizer.is_null() {
            drop(Box::from_raw(tokenizer));
        }
        Ok(())
    });
}

#[no_mangle]
pub unsafe extern "C" fn rw_tokenizer_info(tokenizer: *const Tokenizer, out: *mut Text) -> Text {
    guard(|| {
        *out = Text::new((*tokenizer).info());
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn rw_tokenizer_id(tokenizer: *const Tokenizer, token: View, out: *mut i64) -> Text {
    guard(|| {
        *out = (*tokenizer).id_of(utf8(token, "the token")?).map_or(-1, i64::from);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn rw_tokenizer_encode(
    tokenizer: *const Tokenizer,
    text: View,
    wrap: bool,
    as_text: bool,
    out: *mut Tokens,
) -> Text {
    guard(|| {
        let (data, size) = into_raw((*tokenizer).encode(utf8(text, "the text")?, wrap, as_text)?);
        *out = Tokens { data, size };
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn rw_tokenizer_decode(
    tokenizer: *const Tokenizer,
    ids: *const u32,
    num_ids: usize,
    skip_special_tokens: bool,
    out: *mut Text,
) -> Text {
    guard(|| {
        *out = Text::new((*tokenizer).decode(slice(ids, num_ids), skip_special_tokens)?);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn rw_template_compile(
    source: View,
    name: View,
    variables: View,
    now: i64,
    out: *mut *mut Template,
) -> Text {
    guard(|| {
        let name = utf8(name, "the name")?;
        let source = utf8(source, name)?;
        let compiled = Template::compile(source, name, utf8(variables, "variables")?, now)?;
        *out = Box::into_raw(Box::new(compiled));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn rw_template_render(
    compiled: *const Template,
    messages: *const MessageView,
    num_messages: usize,
    add_generation_prompt: bool,
    out: *mut Text,
) -> Text {
    guard(|| {
        let messages = slice(messages, num_messages).iter().map(|message| {
            let role = utf8(message.role, "the role of a message")?.to_owned();
            Ok(Message { role, content: utf8(message.content, "the content of a message")?.to_owned() })
        });
        let messages = messages.collect::<Result<Vec<_>, String>>()?;
        *out = Text::new((*compiled).render(messages, add_generation_prompt)?);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn rw_template_free(compiled: *mut Template) {
    guard(|| {
        if !compiled.is_null() {
            drop(Box::from_raw(compiled));
        }
        Ok(())
    });
}
