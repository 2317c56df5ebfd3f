// Makes dist/: the module in both forms, and one file of types for each. With --test also build/, what the tests look at from inside or open in a browser.

import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

process.chdir(fileURLToPath(new URL("..", import.meta.url)));
for (const folder of ["dist", "build"]) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
}

const library = { bundle: true, target: "es2022", external: ["@msgpack/msgpack"], platform: "neutral", legalComments: "none" };
const jobs = [
  build({ ...library, entryPoints: ["src/index.ts"], format: "esm", outfile: "dist/index.js" }),
  build({ ...library, entryPoints: ["src/index.ts"], format: "cjs", outfile: "dist/index.cjs" }),
];
if (process.argv.includes("--test")) {
  jobs.push(build({ ...library, entryPoints: ["test/inside.ts"], format: "esm", outfile: "build/inside.js" }));
  const page = { ...library, external: [], mainFields: ["module", "main"], format: "iife", globalName: "campanile" };
  jobs.push(build({ ...page, entryPoints: ["src/index.ts"], outfile: "build/page.js" }));
}
execFileSync("node_modules/.bin/tsc", ["-p", "."], { stdio: "inherit" });
await Promise.all(jobs);

// One file without imports, so that the same text serves as index.d.ts and index.d.cts, which may import no common file.
const parts = ["errors", "types"].map((name) => readFileSync(`build/types/${name}.d.ts`, "utf8"));
const connect = /^(?:\/\*\*(?:(?!\*\/)[^])*\*\/\n)?export declare function connect\([^]*?;$/m.exec(readFileSync("build/types/client.d.ts", "utf8"));
// Of the functions none but connect is handed out.
const inner = /(?:\/\*\*(?:(?!\*\/)[^])*\*\/\n)?export declare function [^]*?;\n/g;
const lines = [...parts.map((part) => part.replace(inner, "")), `${connect[0]}\n`].join("\n").split("\n");
const dropped = /^import |^export (?:type )?\{\};?$/;
writeFileSync("dist/index.d.ts", lines.filter((line) => !dropped.test(line)).join("\n"));
copyFileSync("dist/index.d.ts", "dist/index.d.cts");
// Both ask to be handed on with every copy. They stand at the top of the repository, or here where this folder has been copied from it.
for (const licence of ["LICENSE-APACHE", "LICENSE-MIT"]) {
  copyFileSync(existsSync(licence) ? licence : `../../${licence}`, `dist/${licence}`);
}
