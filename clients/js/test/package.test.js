// What `npm pack` makes, put into a fresh place and used from there: as a module, by `require`, and by a program that is typed.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const USE = 'const client = connect("http://127.0.0.1:1", { transports: ["polling"] }); client.close(); console.log(client.state, new CampanileError("a", "b").code);';

test("the package holds what it needs, in every form", (t) => {
  const place = mkdtempSync(join(tmpdir(), "campanile-package-"));
  t.after(() => rmSync(place, { recursive: true, force: true }));
  const run = (program, ...given) => execFileSync(program, given, { cwd: place, encoding: "utf8" });
  const [{ filename, files }] = JSON.parse(execFileSync("npm", ["pack", "--json", "--pack-destination", place], { cwd: HERE, encoding: "utf8" }));
  assert.deepEqual(files.map(({ path }) => path).sort(), ["README.md", "dist/index.cjs", "dist/index.d.cts", "dist/index.d.ts", "dist/index.js", "package.json"]);

  const home = join(place, "node_modules/@campanile/client");
  mkdirSync(home, { recursive: true });
  run("tar", "-xzf", filename, "-C", home, "--strip-components=1");
  symlinkSync(join(HERE, "node_modules/@msgpack"), join(place, "node_modules/@msgpack"));
  assert.deepEqual(Object.keys(JSON.parse(readFileSync(join(home, "package.json"), "utf8")).dependencies), ["@msgpack/msgpack"]);

  writeFileSync(join(place, "module.mjs"), `import { connect, CampanileError } from "@campanile/client"; ${USE}`);
  writeFileSync(join(place, "script.cjs"), `const { connect, CampanileError } = require("@campanile/client"); ${USE}`);
  for (const file of ["module.mjs", "script.cjs"]) assert.equal(run(process.execPath, file), "closed a\n", file);

  const compiler = { strict: true, noEmit: true, target: "es2022", module: "node16", lib: ["es2022", "dom"], types: [], skipLibCheck: false };
  writeFileSync(join(place, "tsconfig.json"), JSON.stringify({ compilerOptions: compiler, files: ["typed.mts", "typed.cts"] }));
  for (const file of ["typed.mts", "typed.cts"]) copyFileSync(join(HERE, "test/typed.ts"), join(place, file));
  try {
    run(join(HERE, "node_modules/.bin/tsc"), "-p", ".");
  } catch (error) {
    assert.fail(`${error.stdout}`);
  }
});
