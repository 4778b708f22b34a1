//! The order of Debian versions: total, and the same whichever of two is asked about first.
#![no_main]

use std::cmp::Ordering;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let versions: Vec<&str> = text.split('\n').take(6).collect();
    let compare = base::debian::fuzzing::compare;
    for a in &versions {
        assert!(compare(a, a).is_none_or(Ordering::is_eq));
        for b in &versions {
            let order = compare(a, b);
            assert_eq!(order, compare(b, a).map(Ordering::reverse), "{a} {b}");
            for c in &versions {
                let (Some(ab), Some(bc), Some(ac)) = (order, compare(b, c), compare(a, c)) else { continue };
                let is_chain = ab.is_le() && bc.is_le();
                assert!(!is_chain || ac.is_le(), "{a} <= {b} <= {c}, and {a} is later than {c}");
                assert!(!is_chain || (ab.is_eq() && bc.is_eq()) == ac.is_eq(), "{a} {b} {c}");
            }
        }
    }
});
