// What a tokenizer.json must satisfy before the tokenizers library may see it. The library trusts its input: it takes
// ids as they come, runs any regular expression, and panics where a table is inconsistent.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace rankwise {

// Throws DataError("PLACE: part: reason") for
//  * ids that are negative, not whole, given twice, 2^22 or more, or sparse (more than half of the range unused),
//  * an added token that is empty or there twice, or shares its id with another token,
//  * merges that are neither "a b" nor ["a", "b"], or name a token (or make one) that is not in the vocabulary,
//  * a regular expression that no published tokenizer uses, a replacement that can make text longer, a chunk length of
//  0.
void check_tokenizer_json(const nlohmann::json& json, std::string_view place);

}  // namespace rankwise
