//! What was built before, by the digest of everything it was built from: on this machine, in a folder, in a registry. The crate
//! knows nothing of Cargo or images. Invariant: an entry is used only whole and with the content it was stored with; anything
//! else counts as missing.
