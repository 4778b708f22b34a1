# The outputs of the flake as data, made without a package set: the inputs are stubs whose functions give their arguments
# back. What a derivation would be built from can then be read as JSON:
#
#     nix-instantiate --eval --strict --json --store dummy:// ci/nix/outputs.nix
#
# It knows the functions that the flake calls and nothing else: another one fails here until it is added.
let
  genAttrs = names: f: builtins.listToAttrs (map (name: { inherit name; value = f name; }) names);
  filterAttrs =
    keep: set: builtins.listToAttrs (builtins.concatMap (name: if keep name then [ { inherit name; value = set.${name}; } ] else [ ]) (builtins.attrNames set));

  lib = {
    inherit genAttrs;
    inherit (builtins) mapAttrs;
    optionals = condition: list: if condition then list else [ ];
    hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
    unique = list: builtins.attrNames (genAttrs list (_: null));
    getExe = package: "${package}/bin/${package.arguments.meta.mainProgram}";
    fileset = {
      unions = map (path: if builtins.pathExists path then baseNameOf path else throw "${toString path} is in a file set and does not exist");
      toSource = { root, fileset }: { outPath = "/source"; files = fileset; };
    };
  };

  # A package of the package set, as a name.
  package = name: { outPath = "/${name}"; };
  derivation = function: arguments: { inherit function arguments; outPath = "/${function}-${arguments.pname or arguments.name or ""}"; };
  # Arguments without what was computed from them and would only be repeated.
  shown = value:
    if builtins.isAttrs value && value ? function then { inherit (value) function; arguments = builtins.mapAttrs (_: shown) value.arguments; }
    else if builtins.isPath value then toString value
    else if builtins.isAttrs value && value ? outPath then value.outPath
    else if builtins.isAttrs value then builtins.mapAttrs (_: shown) value
    else if builtins.isList value then map shown value
    else value;

  target = system: {
    x86_64-linux = "x86_64-unknown-linux-gnu";
    aarch64-linux = "aarch64-unknown-linux-gnu";
    aarch64-darwin = "aarch64-apple-darwin";
  }.${system};
  systems = [ "x86_64-linux" "aarch64-linux" "aarch64-darwin" ];

  inputs = {
    nixpkgs = {
      inherit lib;
      legacyPackages = genAttrs systems (system: {
        stdenv.hostPlatform.rust.rustcTarget = target system;
        glibc.static = package "glibc-static";
        git = package "git";
        cargo-nextest = package "cargo-nextest";
        skopeo = package "skopeo";
      });
    };
    rust-overlay.lib.mkRustBin = _: _: {
      fromRustupToolchainFile = file: { outPath = "/toolchain"; channel = (fromTOML (builtins.readFile file)).toolchain.channel; };
    };
    crane.mkLib = _: {
      overrideToolchain = select: let toolchain = select { }; in builtins.seq toolchain.channel (
        genAttrs [ "buildDepsOnly" "buildPackage" "cargoClippy" "cargoFmt" "cargoTest" "devShell" "mkCargoDerivation" ] derivation // {
          vendorCargoDeps = { src }: { outPath = "/vendor"; };
        }
      );
    };
  };

  outputs = (import ../../flake.nix).outputs inputs;
in
assert (filterAttrs (name: !builtins.elem name [ "packages" "apps" "checks" "devShells" ]) outputs) == { };
shown outputs
