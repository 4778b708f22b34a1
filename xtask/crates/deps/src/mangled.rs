//! Which crate a symbol belongs to, from its mangled name: the crate that defines the function, and the one that it was compiled
//! for where that is another. It knows no packages. Invariant: no name makes it panic, recurse or run without bound.
//!
//! Source: RFC 2603 and "v0 Symbol Format" of the rustc book.

use std::collections::BTreeSet;

/// Names nest some ten levels deep.
const MOST_DEPTH: usize = 256;
/// Back references could make short names long.
const MOST_STEPS: usize = 100_000;

/// A crate as a symbol names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CrateName {
    pub(crate) name: String,
    /// Tells crates of one name apart, in the base 62 digits that symbols have; empty for none.
    pub(crate) disambiguator: String,
}

/// Whose a symbol is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mangled {
    /// A name of the current scheme.
    V0 {
        /// Where the function is written.
        defined: CrateName,
        /// The crate that needed it with these types.
        instantiated: Option<CrateName>,
    },
    /// A name of the old scheme, which names no crate for sure: crates that occur in it, the likeliest first.
    Legacy(Vec<String>),
}

/// Takes a symbol's name apart; `None` for what no Rust compiler mangled.
pub(crate) fn parse(symbol: &str) -> Option<Mangled> {
    if let Some(rest) = symbol.strip_prefix("_R") {
        let mut parser = Parser { text: rest.as_bytes(), at: 0, depth: 0, steps: 0 };
        let defined = parser.path()?;
        let ends = matches!(parser.peek(), None | Some(b'.' | b'$'));
        let instantiated = if ends { None } else { Some(parser.path()?) };
        return Some(Mangled::V0 { defined, instantiated });
    }
    legacy(symbol.strip_prefix("_ZN")?).map(Mangled::Legacy)
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    steps: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        self.steps += 1;
        (self.steps < MOST_STEPS).then_some(byte)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.depth += 1;
        let parsed = if self.depth > MOST_DEPTH { None } else { parse(self) };
        self.depth -= 1;
        parsed
    }

    fn base62(&mut self) -> Option<u64> {
        if self.eat(b'_') {
            return Some(0);
        }
        let mut value = 0_u64;
        loop {
            let digit = match self.next()? {
                b'_' => return value.checked_add(1),
                byte @ b'0'..=b'9' => byte - b'0',
                byte @ b'a'..=b'z' => byte - b'a' + 10,
                byte @ b'A'..=b'Z' => byte - b'A' + 36,
                _ => return None,
            };
            value = value.checked_mul(62)?.checked_add(u64::from(digit))?;
        }
    }

    /// The digits of an optional disambiguator.
    fn disambiguator(&mut self) -> Option<String> {
        if !self.eat(b's') {
            return Some(String::new());
        }
        let start = self.at;
        self.base62()?;
        let digits = &self.text[start..self.at - 1];
        String::from_utf8(digits.to_vec()).ok()
    }

    fn identifier(&mut self) -> Option<String> {
        self.eat(b'u');
        let mut length = usize::from(self.next().filter(u8::is_ascii_digit)? - b'0');
        while let Some(digit) = self.peek().filter(|byte| length > 0 && byte.is_ascii_digit()) {
            length = length.checked_mul(10)?.checked_add(usize::from(digit - b'0'))?;
            self.at += 1;
        }
        self.eat(b'_');
        let name = self.text.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        String::from_utf8(name.to_vec()).ok()
    }

    /// The crate whose path this is; of a method of an implementation, the crate that implements.
    fn path(&mut self) -> Option<CrateName> {
        self.deeper(|parser| match parser.next()? {
            b'C' => {
                let disambiguator = parser.disambiguator()?;
                Some(CrateName { name: parser.identifier()?, disambiguator })
            }
            b'M' => {
                let implements = parser.implementation()?;
                parser.type_().map(|()| implements)
            }
            b'X' => {
                let implements = parser.implementation()?;
                parser.type_()?;
                parser.path().map(|_| implements)
            }
            b'Y' => {
                parser.type_()?;
                parser.path()
            }
            b'N' => {
                parser.next().filter(u8::is_ascii_alphabetic)?;
                let outer = parser.path()?;
                parser.disambiguator()?;
                parser.identifier().map(|_| outer)
            }
            b'I' => {
                let generic = parser.path()?;
                parser.until_end(Self::generic_argument)?;
                Some(generic)
            }
            b'B' => parser.back(Self::path),
            _ => None,
        })
    }

    fn implementation(&mut self) -> Option<CrateName> {
        self.disambiguator()?;
        self.path()
    }

    /// What stands at an earlier place.
    fn back<T>(&mut self, parse: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let here = self.at - 1;
        let place = usize::try_from(self.base62()?).ok().filter(|place| *place < here)?;
        let after = std::mem::replace(&mut self.at, place);
        let parsed = parse(self);
        self.at = after;
        parsed
    }

    fn until_end(&mut self, mut parse: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        while !self.eat(b'E') {
            parse(self)?;
        }
        Some(())
    }

    fn generic_argument(&mut self) -> Option<()> {
        match self.peek()? {
            b'L' => {
                self.at += 1;
                self.base62().map(drop)
            }
            b'K' => {
                self.at += 1;
                self.constant()
            }
            _ => self.type_(),
        }
    }

    fn type_(&mut self) -> Option<()> {
        self.deeper(|parser| match parser.next()? {
            byte if b"abcdefhijlmnopstuvxyz".contains(&byte) => Some(()),
            b'C' | b'M' | b'X' | b'Y' | b'N' | b'I' => {
                parser.at -= 1;
                parser.path().map(drop)
            }
            b'A' => {
                parser.type_()?;
                parser.constant()
            }
            b'S' | b'P' | b'O' => parser.type_(),
            b'T' => parser.until_end(Self::type_),
            b'R' | b'Q' => {
                if parser.eat(b'L') {
                    parser.base62()?;
                }
                parser.type_()
            }
            b'F' => parser.function(),
            b'D' => parser.dynamic(),
            b'W' => {
                parser.type_()?;
                parser.pattern()
            }
            b'B' => parser.base62().map(drop),
            _ => None,
        })
    }

    fn binder(&mut self) -> Option<()> {
        if self.eat(b'G') { self.base62().map(drop) } else { Some(()) }
    }

    fn function(&mut self) -> Option<()> {
        self.binder()?;
        self.eat(b'U');
        if self.eat(b'K') && !self.eat(b'C') {
            self.identifier()?;
        }
        self.until_end(Self::type_)?;
        self.type_()
    }

    fn dynamic(&mut self) -> Option<()> {
        self.binder()?;
        self.until_end(|parser| {
            parser.path()?;
            while parser.eat(b'p') {
                parser.identifier()?;
                parser.type_()?;
            }
            Some(())
        })?;
        if self.eat(b'L') { self.base62().map(drop) } else { None }
    }

    fn pattern(&mut self) -> Option<()> {
        self.deeper(|parser| match parser.next()? {
            b'R' => {
                parser.constant()?;
                parser.constant()
            }
            b'O' => parser.until_end(Self::pattern),
            b'N' => Some(()),
            _ => None,
        })
    }

    fn constant(&mut self) -> Option<()> {
        self.deeper(|parser| match parser.next()? {
            b'p' => Some(()),
            b'B' => parser.base62().map(drop),
            b'R' | b'Q' => parser.constant(),
            b'A' | b'T' => parser.until_end(Self::constant),
            b'V' => {
                parser.path()?;
                match parser.next()? {
                    b'U' => Some(()),
                    b'T' => parser.until_end(Self::constant),
                    b'S' => parser.until_end(|parser| {
                        parser.disambiguator()?;
                        parser.identifier()?;
                        parser.constant()
                    }),
                    _ => None,
                }
            }
            byte if b"abcehijlmnostxy".contains(&byte) => {
                parser.eat(b'n');
                while parser.next()? != b'_' {}
                Some(())
            }
            _ => None,
        })
    }
}

/// The first part of a path of the old scheme names a module's crate, or is an implementation such as `<a::B as c::D>`: then the
/// type's crate is likelier than the trait's. Parts of what `drop_in_place` is for come first: `core` only lends its name.
fn legacy(rest: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = rest;
    while !rest.starts_with('E') {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let length: usize = rest.get(..digits)?.parse().ok()?;
        let end = digits.checked_add(length)?;
        parts.push(rest.get(digits..end)?);
        rest = rest.get(end..)?;
    }
    let is_hash = |part: &&str| part.len() == 17 && part.starts_with('h');
    parts.last().filter(|part| is_hash(part))?;
    let first = *parts.first()?;
    let mut seen = BTreeSet::new();
    let dropped = parts.iter().filter(|part| part.starts_with("drop_in_place$LT$"));
    let texts = dropped.copied().chain([first]);
    let mut candidates: Vec<String> =
        texts.flat_map(crates_in).filter(|name| seen.insert(name.clone())).collect();
    if candidates.is_empty() && first.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        candidates.push(first.to_owned());
    }
    (!candidates.is_empty()).then_some(candidates)
}

/// Names before `..`, which the old scheme writes for `::`.
fn crates_in(part: &str) -> Vec<String> {
    if !part.contains('$') && !part.contains("..") {
        return if part.is_empty() { vec![] } else { vec![part.to_owned()] };
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut names = Vec::new();
    for path in part.split('$') {
        let path = path.trim_start_matches("_");
        if let Some((name, _)) =
            path.split_once("..").filter(|(name, _)| !name.is_empty() && name.chars().all(is_name))
        {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(symbol: &str) -> (String, Option<String>) {
        match parse(symbol) {
            Some(Mangled::V0 { defined, instantiated }) => (defined.name, instantiated.map(|one| one.name)),
            Some(Mangled::Legacy(names)) => (names.join(","), None),
            None => (String::new(), None),
        }
    }

    #[test]
    fn names_of_the_current_scheme() {
        let check = |symbol: &str, defined: &str, instantiated: Option<&str>| {
            assert_eq!(owner(symbol), (defined.to_owned(), instantiated.map(str::to_owned)), "{symbol}");
        };
        // From the rustc book and the tests of rustc-demangle.
        check("_RNvNtCs1234_7mycrate3foo3bar", "mycrate", None);
        check("_RINvNtC3std3mem8align_ofjdE", "std", None);
        check("_RINvNtC3std3mem8align_ofjdEC3app", "std", Some("app"));
        check("_RNvMC0NvC0b1c.llvm.1", "", None);
        check(
            "_RNvXs5_NtCsi3DBT_5alloc3vecINtB5_3VechENtNtCsX_4core3fmt5Debug3fmtCs2_5hyper",
            "alloc",
            Some("hyper"),
        );
        check("_RNvYNtCs1_3app1TNtNtC4core5clone5Clone5clone", "core", None);
        check("memcpy", "", None);
    }

    #[test]
    fn names_of_the_old_scheme() {
        let old = |parts: &[&str]| {
            let part = |part: &&str| format!("{}{part}", part.len());
            owner(&format!("_ZN{}17h0123456789abcdefE", parts.iter().map(part).collect::<String>())).0
        };
        assert_eq!(old(&["tokio", "runtime", "new"]), "tokio");
        assert_eq!(old(&["_$LT$bytes..Bytes$u20$as$u20$serde..Serialize$GT$", "ser"]), "bytes,serde");
        assert_eq!(old(&["_$LT$T$u20$as$u20$serde..Serialize$GT$", "ser"]), "serde");
        assert_eq!(old(&["core", "ptr", "drop_in_place$LT$app..state..Shared$GT$"]), "app,core");
        assert_eq!(owner("_ZN3foo3barEv").0, "", "a name of C++");
    }

    #[test]
    fn every_name_of_this_program_that_the_field_s_reader_accepts_is_accepted() {
        let symbols = elf::symbols(&std::env::current_exe().unwrap()).unwrap();
        let mut rust = 0;
        for symbol in &symbols {
            let accepted = rustc_demangle::try_demangle(&symbol.name).is_ok();
            let is_rust = symbol.name.starts_with("_R") || symbol.name.starts_with("_ZN");
            if accepted && is_rust {
                assert!(parse(&symbol.name).is_some(), "{}", symbol.name);
                rust += 1;
            }
        }
        assert!(rust > 1000, "{rust}");
    }

    #[test]
    fn no_name_makes_it_panic_or_run_long() {
        let good = "_RINvNtCs1_3std3memINtB5_3VecRShDNtC1a1bp4ItemjEL_FUKCTjEuEAjKj4_E8align_ofKj5_EC3app";
        let all: Vec<u8> = (0..=255).collect();
        for at in 2..good.len() {
            for byte in &all {
                let mut bytes = good.as_bytes().to_vec();
                bytes[at] = *byte;
                let _ = parse(&String::from_utf8_lossy(&bytes));
            }
            let _ = parse(&good[..at]);
        }
        for unit in ["B_", "I", "RIC0", "NvB1_", "T", "DG", "999999999999999999999", "s_"] {
            let _ = parse(&format!("_R{}", unit.repeat(20_000)));
            let _ = parse(&format!("_ZN{}", unit.repeat(20_000)));
        }
    }
}
