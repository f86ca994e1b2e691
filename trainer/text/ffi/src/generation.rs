//! `{% generation %} ... {% endgeneration %}` marks the assistant's words for transformers' own loss masks and prints
//! its body. Here it becomes a condition that always holds, which prints the body too and keeps the whitespace rules.

pub fn as_plain_blocks(source: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open);
        plain.push_str(before);
        let length = tag.find("%}").map_or(tag.len(), |close| close + 2);
        let (tag, after) = tag.split_at(length);
        let word = tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim();
        match word {
            "generation" => plain.push_str(&tag.replace(word, "if true")),
            "endgeneration" => plain.push_str(&tag.replace(word, "endif")),
            _ => plain.push_str(tag),
        }
        rest = after;
    }
    plain.push_str(rest);
    plain
}
