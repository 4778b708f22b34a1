{
  description = "Slipway: from a Cargo workspace to running services";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    crane.url = "github:ipetkov/crane";
    rust-overlay = {
      url = "github:oxalica/rust-overlay";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    { nixpkgs, crane, rust-overlay, ... }:
    let
      inherit (nixpkgs) lib;
      linux = [ "x86_64-linux" "aarch64-linux" ];
      others = [ "aarch64-darwin" ];

      workspace = (fromTOML (builtins.readFile ./Cargo.toml)).workspace;
      lock = fromTOML (builtins.readFile ./Cargo.lock);

      # A service is a folder of services/ with a service.yaml: its package's name is the name of its binary.
      isService = folder: builtins.pathExists (./services + "/${folder}/service.yaml");
      packageName = folder: (fromTOML (builtins.readFile (./services + "/${folder}/Cargo.toml"))).package.name;
      services = map packageName (builtins.filter isService (builtins.attrNames (builtins.readDir ./services)));

      toolsFor =
        system:
        let
          pkgs = nixpkgs.legacyPackages.${system};
          toolchain = (rust-overlay.lib.mkRustBin { } pkgs).fromRustupToolchainFile ./rust-toolchain.toml;
          isLinux = builtins.elem system linux;
        in
        {
          inherit pkgs;
          craneLib = (crane.mkLib pkgs).overrideToolchain (_: toolchain);
          # `+crt-static` links the C library's archives.
          staticLibc = lib.optionals isLinux [ pkgs.glibc.static ];
        };

      outputsFor =
        system:
        let
          inherit (toolsFor system) pkgs craneLib staticLibc;
          target = pkgs.stdenv.hostPlatform.rust.rustcTarget;
          src = lib.fileset.toSource {
            root = ./.;
            fileset = lib.fileset.unions [ ./.cargo ./Cargo.toml ./Cargo.lock ./rustfmt.toml ./clippy.toml ./services ./xtask ];
          };
          vendored = craneLib.vendorCargoDeps { inherit src; };
          common = {
            inherit src;
            inherit (workspace.package) version;
            pname = "slipway";
            cargoVendorDir = vendored;
            strictDeps = true;
          };

          # Everything of the workspace: compiled once for the tool, lints and tests.
          whole = common // { cargoExtraArgs = "--locked --workspace"; };
          wholeDeps = craneLib.buildDepsOnly whole;
          check = whole // { cargoArtifacts = wholeDeps; };
          xtask = craneLib.buildPackage (check // {
            pname = "xtask";
            cargoBuildExtraArgs = "--bin=xtask --bin=cargo-xtask";
            doCheck = false;
            meta.mainProgram = "xtask";
          });

          # The services: the invocation and the environment of `cargo xtask build`. A test holds them equal.
          # The set is closed: features are resolved for all services, whichever binary is asked for.
          bins = map (name: "--bin=${name}");
          release = common // {
            buildInputs = staticLibc;
            cargoExtraArgs = toString ([ "--locked" "--target=${target}" ] ++ map (name: "--package=${name}") services);
            doCheck = false;
            # Cargo leaves the symbols, as for images, and Nix takes them off.
            stripAllList = [ "bin" ];
            dontPatchELF = true;
            CARGO_INCREMENTAL = "0";
            CARGO_PROFILE_RELEASE_STRIP = "debuginfo";
            SOURCE_DATE_EPOCH = "315532800";
            CONST_RANDOM_SEED = builtins.hashFile "sha256" ./Cargo.lock;
            TZ = "UTC";
            LC_ALL = "C.UTF-8";
            preBuild = keepMachineOut;
          };
          registries = lib.unique (builtins.filter (lib.hasPrefix "registry+") (map (p: p.source or "") lock.package));
          vendoredRemaps = map (url: "${vendored}/${builtins.hashString "sha256" url}=/cargo/registry/src") registries;
          # rustc applies the last prefix that matches: general ones come first.
          keepMachineOut = ''
            rustc_commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
            remaps=("$PWD=/workspace" "$CARGO_HOME=/cargo" "$PWD/''${CARGO_TARGET_DIR:-target}=/target" ${toString vendoredRemaps}
              "$(rustc --print sysroot)/lib/rustlib/src/rust=/rustc/$rustc_commit")
            flags=("-Ctarget-feature=+crt-static" "-Csymbol-mangling-version=v0" "''${remaps[@]/#/--remap-path-prefix=}" --remap-path-scope=object)
            export CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "''${flags[*]}")
            for language in CFLAGS CXXFLAGS; do
              export "''${language}_${builtins.replaceStrings [ "-" ] [ "_" ] target}=''${remaps[*]/#/-ffile-prefix-map=}"
            done
            unset RUSTFLAGS USER LOGNAME HOSTNAME LANG LANGUAGE
          '';
          serviceDeps = craneLib.buildDepsOnly (release // {
            pname = "slipway-services";
            cargoCheckCommand = ": nothing to check with";
            cargoBuildExtraArgs = toString (bins services);
          });
          service = name: craneLib.buildPackage (release // {
            pname = name;
            cargoArtifacts = serviceDeps;
            cargoBuildExtraArgs = toString (bins [ name ]);
            meta.mainProgram = name;
          });
          built = lib.genAttrs services service // { inherit xtask; };
          packages = built // { default = xtask; };
        in
        {
          inherit packages;
          apps = lib.mapAttrs (_: package: { type = "app"; program = lib.getExe package; }) packages;
          checks = built // {
            clippy = craneLib.cargoClippy (check // { cargoClippyExtraArgs = "--all-targets -- --deny warnings"; });
            fmt = craneLib.cargoFmt { inherit (common) src pname version; };
            # Integration tests start compilers and engines, which no sandbox has: `cargo xtask test` in the shell runs them.
            test = craneLib.cargoTest (check // { src = ./.; cargoTestExtraArgs = "--lib --bins"; nativeBuildInputs = [ pkgs.git ]; });
            workflows = craneLib.mkCargoDerivation (check // {
              src = ./.; pnameSuffix = "-workflows"; nativeBuildInputs = [ xtask ]; doInstallCargoArtifacts = false;
              buildPhaseCargoCommand = "xtask ci check";
            });
          };
        };

      shellFor =
        system: with toolsFor system; {
          default = craneLib.devShell {
            packages = [ pkgs.git pkgs.cargo-nextest pkgs.skopeo ];
            buildInputs = staticLibc;
          };
        };

      all = lib.genAttrs linux outputsFor;
      pick = name: lib.mapAttrs (_: outputs: outputs.${name}) all;
    in
    {
      packages = pick "packages";
      apps = pick "apps";
      checks = pick "checks";
      devShells = lib.genAttrs (linux ++ others) shellFor;
    };
}
