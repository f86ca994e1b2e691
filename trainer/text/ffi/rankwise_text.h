/* The C interface of the Rust crate in this folder: Hugging Face tokenizers and Jinja chat templates.
 *
 * Every function returns an error as a value: a text with data == NULL means success; anything else is the message, in
 * UTF-8, owned by the caller (rw_text_free). Out parameters are set on success alone. No panic and no exception crosses
 * this boundary. Handles are immutable after they are made and may be used by several threads at once.
 */
#ifndef RANKWISE_TEXT_H_
#define RANKWISE_TEXT_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Borrowed bytes, not terminated; data may be NULL when size is 0. What must be UTF-8 is checked. */
typedef struct {
  const char* data;
  size_t size;
} rw_view;

/* Bytes owned by the caller. */
typedef struct {
  char* data;
  size_t size;
} rw_text;

/* Token ids with the byte range [begin, end) of the input that each one covers; owned by the caller. */
typedef struct {
  uint32_t id;
  uint32_t begin;
  uint32_t end;
} rw_token;

typedef struct {
  rw_token* data;
  size_t size;
} rw_tokens;

typedef struct {
  rw_view role;
  rw_view content;
} rw_message;

typedef struct rw_tokenizer rw_tokenizer;
typedef struct rw_template rw_template;

void rw_text_free(rw_text text);
void rw_tokens_free(rw_tokens tokens);

/* json: a whole tokenizer.json. added_tokens: a JSON list of {content, single_word, lstrip, rstrip, normalized,
 * special} that other files name; what tokenizer.json has already stays as it is. */
rw_text rw_tokenizer_load(rw_view json, rw_view added_tokens, rw_tokenizer** out);
void rw_tokenizer_free(rw_tokenizer* tokenizer);

/* {"vocab_size": 1 + the largest id, "special_tokens": [contents, in the order of their ids]} */
rw_text rw_tokenizer_info(const rw_tokenizer* tokenizer, rw_text* out);

/* -1 for a token that is not in the vocabulary. */
rw_text rw_tokenizer_id(const rw_tokenizer* tokenizer, rw_view token, int64_t* out);

/* wrap: let the post-processor add its tokens. as_text: the spelling of a special token in `text` stays plain text. */
rw_text rw_tokenizer_encode(const rw_tokenizer* tokenizer, rw_view text, bool wrap, bool as_text, rw_tokens* out);
rw_text rw_tokenizer_decode(const rw_tokenizer* tokenizer, const uint32_t* ids, size_t num_ids,
                            bool skip_special_tokens, rw_text* out);

/* name: for messages. variables: a JSON object of strings. now: seconds since 1970, what strftime_now shows in local
 * time. */
rw_text rw_template_compile(rw_view source, rw_view name, rw_view variables, int64_t now, rw_template** out);
rw_text rw_template_render(const rw_template* compiled, const rw_message* messages, size_t num_messages,
                           bool add_generation_prompt, rw_text* out);
void rw_template_free(rw_template* compiled);

#ifdef __cplusplus
}
#endif

#endif /* RANKWISE_TEXT_H_ */
