//! Where terms stand in the text. The parser keeps slices of the text, not offsets.

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::Term;
use jaq_core::path::Part;

/// Byte offset of a slice of the text; `None` for text from elsewhere.
pub(super) fn offset(part: &str, text: &str) -> Option<u32> {
    let at = (part.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    u32::try_from(at).ok().filter(|_| at <= text.len())
}

/// Byte offset of the leftmost part of a term that has a place.
pub(super) fn first(term: &Term<&str>, text: &str) -> Option<u32> {
    match term {
        Term::Id | Term::Recurse | Term::Arr(None) => None,
        Term::Num(part) | Term::Var(part) | Term::Break(part) => offset(part, text),
        Term::Call(part, _) | Term::Fold(part, ..) | Term::Label(part, _) => offset(part, text),
        Term::Str(Some(format), _) => offset(format, text),
        Term::Str(None, parts) => parts.iter().find_map(|part| match part {
            StrPart::Str(part) => offset(part, text),
            StrPart::Term(term) => first(term, text),
            StrPart::Char(_) => None,
        }),
        Term::Arr(Some(inner)) | Term::Neg(inner) => first(inner, text),
        Term::TryCatch(inner, _) => first(inner, text),
        Term::Obj(members) => members.iter().find_map(|(key, _)| first(key, text)),
        Term::BinOp(left, _, right) => {
            // Chains lean to the left by the hundred: no recursion along them.
            let (mut left, mut right) = (left, right);
            while let Term::BinOp(l, _, r) = &**left {
                (left, right) = (l, r);
            }
            first(left, text).or_else(|| first(right, text))
        }
        Term::IfThenElse(branches, _) => branches.iter().find_map(|(c, _)| first(c, text)),
        Term::Def(defs, _) => defs.first().and_then(|def| offset(def.name, text)),
        Term::Path(head, path) => first(head, text).or_else(|| {
            path.0.iter().find_map(|(part, _)| match part {
                Part::Index(key) => first(key, text),
                Part::Range(from, to) => {
                    let from = from.as_ref().and_then(|from| first(from, text));
                    from.or_else(|| to.as_ref().and_then(|to| first(to, text)))
                }
            })
        }),
    }
}
