# Makes a C++ file of a page: cmake -DPAGE=index.html -DOUTPUT=page.cc -P EmbedPage.cmake
# The page is known to have one <script> and one <style>, without attributes; their SHA-256 go into its security policy.
file(READ ${PAGE} html)

set(alphabet A B C D E F G H I J K L M N O P Q R S T U V W X Y Z a b c d e f g h i j k l m n o p q r s t u v w x y z
    0 1 2 3 4 5 6 7 8 9 + /)

# The hash of the text between <tag> and </tag>, as the policy wants it: 'sha256-' and 32 bytes in base64.
function(hash_of tag variable)
  string(FIND "${html}" "<${tag}>" begin)
  string(FIND "${html}" "</${tag}>" end)
  if(begin EQUAL -1 OR end EQUAL -1)
    message(FATAL_ERROR "${PAGE}: no <${tag}> without attributes")
  endif()
  string(LENGTH "<${tag}>" tag_length)
  math(EXPR begin "${begin} + ${tag_length}")
  math(EXPR length "${end} - ${begin}")
  string(SUBSTRING "${html}" ${begin} ${length} text)
  string(SHA256 hex "${text}")
  set(base64 "")
  foreach(at RANGE 0 60 6) # 3 bytes, 4 letters; a 33rd byte of zero fills the last
    string(SUBSTRING "${hex}00" ${at} 6 digits)
    foreach(shift 18 12 6 0)
      math(EXPR letter "(0x${digits} >> ${shift}) & 63")
      list(GET alphabet ${letter} letter)
      string(APPEND base64 ${letter})
    endforeach()
  endforeach()
  string(REGEX REPLACE ".$" "=" base64 ${base64})
  set(${variable} "'sha256-${base64}'" PARENT_SCOPE)
endfunction()

hash_of(script script)
hash_of(style style)
file(WRITE ${OUTPUT} "#include \"monitoring/page.h\"

namespace rankwise {

std::string_view page_html() {
  return R\"page(${html})page\";
}

std::string_view page_security_policy() {
  return \"default-src 'none'; script-src ${script}; style-src ${style}; img-src data:; connect-src 'self'; \"
         \"base-uri 'none'; form-action 'none'; frame-ancestors 'none'\";
}

}  // namespace rankwise
")
