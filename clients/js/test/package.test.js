// What `npm pack` makes, put into a fresh place and used from there: as a module, by `require`, and by a program that is typed.

import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { copyFileSync, cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Server } from "./support.js";

const execFileLater = promisify(execFile);
const { devDependencies: { ws: WS } } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
const HERE = fileURLToPath(new URL("..", import.meta.url));
// A message over each transport (durable: nobody is subscribed between two polls), from a server whose address is the first argument and whose control port is the second.
const USE = `
const [address, control] = process.argv.slice(2);
const use = async (transport) => {
  const client = connect(address, { transports: [transport] });
  const subscription = client.subscribe("user:used");
  const message = new Promise((resolve) => subscription.on("message", resolve));
  await new Promise((resolve) => subscription.on("subscribed", resolve));
  await fetch(control + "/publish", { method: "POST", body: JSON.stringify({ channel: "user:used", data: transport }) });
  console.log((await message).data, new CampanileError("a", "b").code);
  client.close();
};
["websocket", "sse", "polling"].reduce((before, transport) => before.then(() => use(transport)), Promise.resolve()).then(() => process.exit(0));
`;

test("the package is installed in a fresh place, and used there in every form", async (t) => {
  const place = mkdtempSync(join(tmpdir(), "campanile-package-"));
  t.after(() => rmSync(place, { recursive: true, force: true }));
  const run = (program, ...given) => execFileSync(program, given, { cwd: place, encoding: "utf8" });
  const [{ filename, files }] = JSON.parse(execFileSync("npm", ["pack", "--json", "--pack-destination", place], { cwd: HERE, encoding: "utf8" }));
  const held = ["README.md", "dist/LICENSE-APACHE", "dist/LICENSE-MIT", "dist/index.cjs", "dist/index.d.cts", "dist/index.d.ts", "dist/index.js", "package.json"];
  assert.deepEqual(files.map(({ path }) => path).sort(), held);

  // Node 20 has no WebSocket of its own.
  writeFileSync(join(place, "package.json"), "{}");
  run("npm", "install", "--no-audit", "--no-fund", `./${filename}`, `ws@${WS}`);
  writeFileSync(join(place, "module.mjs"), `import { connect, CampanileError } from "@campanile/client";${USE}`);
  writeFileSync(join(place, "script.cjs"), `const { connect, CampanileError } = require("@campanile/client");${USE}`);
  const server = await Server.start(t);
  for (const file of ["module.mjs", "script.cjs"]) {
    const { stdout } = await execFileLater(process.execPath, [file, server.url, `http://${server.control}`], { cwd: place, timeout: 60000 });
    assert.equal(stdout, "websocket a\nsse a\npolling a\n", file);
  }

  const check = (options, ...files) => {
    const compilerOptions = { noEmit: true, target: "es2022", lib: ["es2022", "dom"], types: [], ...options };
    writeFileSync(join(place, "tsconfig.json"), JSON.stringify({ compilerOptions, files }));
    try {
      run(join(HERE, "node_modules/.bin/tsc"), "-p", ".");
    } catch (error) {
      assert.fail(`${error.stdout}`);
    }
  };
  for (const file of ["typed.mts", "typed.cts"]) copyFileSync(join(HERE, "test/typed.ts"), join(place, file));
  check({ strict: true, module: "node16", skipLibCheck: false }, "typed.mts", "typed.cts");

  // The example bundles as its own package.json says, and what it asks of the client is there. React is not looked into.
  cpSync(join(HERE, "examples/react"), join(place, "react"), { recursive: true, filter: (path) => !path.endsWith("node_modules") });
  const [react, PATH] = [["react", "react-dom"], `${join(HERE, "node_modules/.bin")}:${process.env.PATH}`];
  const flags = ["--log-level=warning", ...react.map((name) => `--external:${name}`)];
  execFileSync("npm", ["run", "build", "--", ...flags], { cwd: join(place, "react"), env: { ...process.env, PATH }, encoding: "utf8" });
  writeFileSync(join(place, "react.d.ts"), 'declare module "react";\ndeclare module "react-dom/client";\n');
  check({ strict: false, module: "esnext", moduleResolution: "bundler", checkJs: true, jsx: "preserve" }, "react.d.ts", "react/app.jsx");
});
