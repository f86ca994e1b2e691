//! A Hugging Face tokenizer with the few additions that transformers makes to it from the files beside tokenizer.json.

use std::str::FromStr;
use std::sync::OnceLock;

use serde_json::json;
use tokenizers::tokenizer::AddedToken;
use tokenizers::Tokenizer as Library;

#[repr(C)]
pub struct Token {
    id: u32,
    begin: u32,
    end: u32,
}

pub struct Tokenizer {
    library: Library,
    // The switch for special tokens belongs to the whole tokenizer, so reading them as text takes a second one.
    library_as_text: OnceLock<Library>,
}

impl Tokenizer {
    pub fn load(json: &str, added_tokens: &str) -> Result<Tokenizer, String> {
        let added_tokens: Vec<AddedToken> = serde_json::from_str(added_tokens).map_err(|e| e.to_string())?;
        let mut library = Library::from_str(json).map_err(|e| e.to_string())?;
        // How long a text may be is the caller's business; transformers switches both off as well.
        library.with_truncation(None).map_err(|e| e.to_string())?;
        library.with_padding(None);
        library.add_tokens(&added_tokens);
        Ok(Tokenizer { library, library_as_text: OnceLock::new() })
    }

    pub fn info(&self) -> String {
        let largest = self.library.get_vocab(true).into_values().max();
        let mut added: Vec<_> = self.library.get_added_tokens_decoder().into_iter().collect();
        added.sort_unstable_by_key(|(id, _)| *id);
        let special = added.into_iter().filter(|(_, token)| token.special).map(|(_, token)| token.content);
        json!({
            "vocab_size": largest.map_or(0, |id| u64::from(id) + 1),
            "special_tokens": special.collect::<Vec<_>>(),
        })
        .to_string()
    }

    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.library.token_to_id(token)
    }

    pub fn encode(&self, text: &str, wrap: bool, as_text: bool) -> Result<Vec<Token>, String> {
        if u32::try_from(text.len()).is_err() {
            return Err(format!("the text has {} bytes; at most {} are taken at once", text.len(), u32::MAX));
        }
        let library = if as_text { self.as_text() } else { &self.library };
        let encoding = library.encode(text, wrap).map_err(|e| e.to_string())?;
        if as_text {
            self.refuse_spelled_out_specials(text, &encoding)?;
        }
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(tokens.map(|(&id, &(begin, end))| Token { id, begin: begin as u32, end: end as u32 }).collect())
    }

    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String> {
        self.library.decode(ids, skip_special_tokens).map_err(|e| e.to_string())
    }

    fn as_text(&self) -> &Library {
        self.library_as_text.get_or_init(|| {
            let mut library = self.library.clone();
            library.set_encode_special_tokens(true);
            library
        })
    }

    /// A Unigram vocabulary may hold "</s>" as an ordinary piece too, and then finds it in plain text whatever the
    /// switch says.
    fn refuse_spelled_out_specials(&self, text: &str, encoding: &tokenizers::Encoding) -> Result<(), String> {
        let added = self.library.get_added_vocabulary().get_added_tokens_decoder();
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        for ((id, &(begin, end)), &from_wrap) in tokens.zip(encoding.get_special_tokens_mask()) {
            let Some(token) = added.get(id).filter(|token| token.special && from_wrap == 0) else { continue };
            if text.get(begin..end).is_some_and(|covered| covered.contains(&token.content)) {
                return Err(format!(
                    "bytes {begin} to {end} of the text spell the special token {:?} and this vocabulary cannot tell \
                     them from it; remove them from the text",
                    token.content
                ));
            }
        }
        Ok(())
    }
}
