"""200 texts that tokenizers and templates get wrong: spaces, digits, scripts, normalisation, special tokens spelled out."""

import random

BY_HAND = [
    "", " ", "  ", "   leading", "trailing   ", "\n", "\n\n\n", "\r\n", "\t\tx", " \n \n ", "a\u00a0b", "a\u2003b\u2009c",
    "\u3000全角", "x\x00y", "\x1b[31mred\x1b[0m", "a\x0bb\x0cc\x85d", "\x1c\x1d\x1e\x1f", "\u2028line\u2029paragraph",
    "\ufeffBOM", "zero\u200bwidth\u200djoin\u200cer", "soft\u00adhyphen", "\u202eright to left\u202c", "\ufffd", "\uffff",
    "\U0010ffff", "\ue000private\uf8ff", "Hello, world!", "don't DON'T I'll I'LL we've WE'VE he'd it's 'tis ''s",
    "I’ll won’t", "3.14159 1,000,000 0x1F 1e-9", "12345678901234567890", "٠١٢٣٤٥٦٧٨٩", "１２３４５", "Ⅷ Ⅻ ⅷ", "½ ⅓ ² ³ ₄ ①", "𝟘𝟙𝟚",
    "café", "cafe\u0301", "A\u030a Å \u212b", "ﬁ ﬂ ﬀ", "ＦＵＬＬ ｗｉｄｔｈ", "ſ ẛ̣", "\u1100\u1161\u11a8 각", "が か\u3099", "Ω Ω", "µ μ", "ǅ ǆ Ǆ",
    "İstanbul ıI iİ", "STRASSE Straße ẞ", "ΣΊΣΥΦΟΣ σίσυφος ς", "עִבְרִית", "العربية ١٢٣", "हिन्दी क्षत्रिय", "ไทยไม่มีวรรค", "ພາສາລາວ",
    "中文没有空格", "日本語とカタカナ", "한국어 띄어쓰기", "བོད་སྐད", "Tiếng Việt", "ქართული", "አማርኛ", "ᚠᚢᚦᚨᚱᚲ", "𐍈𐌹𐌸", "𝓗𝓮𝓵𝓵𝓸", "𠀋𠂢",
    "😀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "1️⃣", "☕️ ☕", "a😀b", "e\u0301\u0301\u0301", "Z͑ͫ̓a̴l̷g̸o̵", "\u0301start",
    "▁already▁there", "▁", "Ġ Ċ ĉ", "<0x41><0xFF>", "<|im_start|>user\nhi<|im_end|>", "<|im_end|>", "a<|im_end|>b",
    "<|im_start|", "<| im_end |>", "<|endoftext|><|endoftext|>", "<s>hello</s>", " <s> ", "</s>", "<unk>", "<pad>",
    "<|begin_of_text|><|eot_id|>", "<｜begin▁of▁sentence｜><｜User｜>", "<think>hm</think>", "<tool_call>{}</tool_call>",
    "[INST] hi [/INST]", "<start_of_turn>", "def f(x):\n    return x  # ok\n", "if (a&&b) { c->d(); }", "<a href='x'>y</a>",
    '{"key": [1, 2.5, null]}', "https://example.org/a?b=c&d=%20#e", "C:\\path\\to", "user@example.org", "a_b-c.d/e\\f|g",
    "....", "!!!???", "--- ***", "«quoted» “curly” ‘single’", "$5 €6 £7 ¥8 ₿9", "∑∫√≠≤∞", "→⇒↦", "a" * 300, "ab" * 200, " " * 100,
    "\n" * 50, "é" * 100, "😀" * 40, "word " * 60, "aA" * 50 + "1", "0" * 64, "-" * 80, "\u0301" * 20, "  a  b  c  ", "a\n b\n  c",
]  # fmt: skip

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyzABC    \n.,'",
    "aé\u0301ñü \u00a0\u2009\u3000\t\r\n",
    "0123456789٣४７Ⅳ², .",
    "中文字漢かなカナ한글 a1",
    "שלוםعربيहिन्दीไทย \u200d\u200c",
    "😀👍🏽\u200d\ufe0f🇩🇪❤a ",
    "<|>/_▁[]sSim_endtart ",
    "\x00\x01\x1f\x7f\x85\xad\u200b\u2028\ufeff\ufffda ",
]


def texts():
    """The same 200 every time."""
    dice = random.Random(7)
    texts = list(BY_HAND)
    while len(texts) < 200:
        letters = dice.choice(ALPHABETS) + (dice.choice(ALPHABETS) if dice.random() < 0.3 else "")
        texts.append("".join(dice.choice(letters) for _ in range(dice.randint(1, 60))))
    return texts
