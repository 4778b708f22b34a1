//! Which constants a function refers to: compilers give most constants no name, so whose they are is seen from the code that
//! reads them. An estimate by construction: it knows the usual forms of x86-64 and arm64, and of others nothing.
//!
//! Source: Intel SDM volume 2, "RIP-relative addressing"; Arm ARM, ADRP, ADD (immediate), LDR (immediate).

/// A page address is used within so many instructions.
const NEAR: usize = 16;

/// A processor whose code can be looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machine {
    X86_64,
    Arm64,
}

impl Machine {
    /// The one of an ELF header.
    pub(crate) fn of(header: &[u8]) -> Option<Machine> {
        match header.get(5..20).map(|part| (part[0], part[13], part[14])) {
            Some((1, 62, 0)) => Some(Machine::X86_64),
            Some((1, 183, 0)) => Some(Machine::Arm64),
            _ => None,
        }
    }

    /// The relocation that adds where the program was loaded.
    pub(crate) fn relative_relocation(self) -> u64 {
        match self {
            Machine::X86_64 => 8,
            Machine::Arm64 => 1027,
        }
    }

    /// Addresses that the code, which lies at `address`, refers to.
    pub(crate) fn references(self, code: &[u8], address: u64, found: impl FnMut(u64)) {
        match self {
            Machine::X86_64 => x86_64(code, address, found),
            Machine::Arm64 => arm64(code, address, found),
        }
    }
}

/// `lea` of 64 bits, `mov` and vector instructions, relative to the next instruction. Instructions are not told apart, so the forms are
/// few: of large tables, even rare bytes that look like a reference and are none would give parts to the wrong owner.
fn x86_64(code: &[u8], address: u64, mut found: impl FnMut(u64)) {
    for (index, window) in code.windows(7).enumerate() {
        let is_address = matches!(window[0], 0x48 | 0x4c) && window[1] == 0x8d;
        let is_read = window[0] == 0x0f || matches!(window[0], 0x48 | 0x4c) && window[1] == 0x8b;
        if window[2] & 0xc7 == 0x05 && (is_address || is_read) {
            let distance = i32::from_le_bytes([window[3], window[4], window[5], window[6]]);
            found(address.wrapping_add(index as u64 + 7).wrapping_add(i64::from(distance) as u64));
        }
    }
}

/// The address of a page, and an instruction soon after that adds to it or reads from it.
fn arm64(code: &[u8], address: u64, mut found: impl FnMut(u64)) {
    let mut pages = [(0_u64, usize::MAX); 32];
    for (index, word) in code.chunks_exact(4).enumerate() {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        let at = address.wrapping_add(index as u64 * 4);
        let (to, from) = ((word & 31) as usize, (word >> 5 & 31) as usize);
        if word & 0x1f00_0000 == 0x1000_0000 {
            // Bits 5 to 23 are the upper part, sign first; bits 29 and 30 the lower.
            let upper = i64::from((word << 8) as i32 >> 13);
            let distance = upper << 2 | i64::from(word >> 29 & 3);
            if word >> 31 == 1 {
                pages[to] = ((at & !0xfff).wrapping_add((distance << 12) as u64), index);
            } else {
                found(at.wrapping_add(distance as u64));
            }
            continue;
        }
        let (page, set) = pages[from];
        if set > index || index - set > NEAR {
            continue;
        }
        let immediate = u64::from(word >> 10 & 0xfff);
        if word & 0xffc0_0000 == 0x9100_0000 {
            found(page.wrapping_add(immediate));
        } else if word & 0x3b00_0000 == 0x3900_0000 {
            let is_vector = word & 0x0480_0000 == 0x0480_0000;
            let scale = if is_vector && word >> 30 == 0 { 4 } else { word >> 30 };
            found(page.wrapping_add(immediate << scale));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(machine: Machine, code: &[u8], address: u64) -> Vec<u64> {
        let mut all = Vec::new();
        machine.references(code, address, |one| all.push(one));
        all
    }

    #[test]
    fn x86_64_code_refers_relative_to_the_next_instruction() {
        // lea rdi, [rip + 0x10]; mov rax, [rip - 7]
        let code = [0x48, 0x8d, 0x3d, 0x10, 0, 0, 0, 0x48, 0x8b, 0x05, 0xf9, 0xff, 0xff, 0xff];
        assert_eq!(references(Machine::X86_64, &code, 0x1000), [0x1017, 0x1007]);
    }

    #[test]
    fn arm64_code_refers_in_two_steps() {
        // adrp x0, +0x2000; add x0, x0, #0x123; ldr x1, [x0, #0x10]; adr x2, -4
        let words: [u32; 4] = [0xd000_0000, 0x9104_8c00, 0xf940_0801, 0x10ff_ffe2];
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(references(Machine::Arm64, &code, 0x40_0000), [0x40_2123, 0x40_2010, 0x40_0008]);
    }

    #[test]
    fn no_code_makes_it_panic() {
        let code: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for address in [0, 1, u64::MAX - 7] {
            references(Machine::X86_64, &code, address);
            references(Machine::Arm64, &code, address);
        }
    }
}
