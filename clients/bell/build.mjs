// Makes of the sources
//   dist/bell.js                 the element, one file without imports, for any page
//   ../../src/control/demo/page.html   the page at /demo, one file, which is committed
// `--check` only says whether the committed page is made of the sources as they are; it needs nothing installed.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "../..");
const page = join(root, "src/control/demo/page.html");

/** Over the names and contents of all that the page is made of; tests/whole/clients/bell.rs reckons it in the same way. */
export function hashOfSources() {
  const folders = ["clients/bell/page", "clients/bell/src", "clients/js/src"];
  const files = ["clients/bell/build.mjs", "clients/bell/package.json"];
  for (const folder of folders) {
    const entries = readdirSync(join(root, folder), { recursive: true, withFileTypes: true });
    files.push(...entries.filter((entry) => entry.isFile()).map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name))));
  }
  const hash = createHash("sha256");
  for (const file of files.sort()) {
    hash.update(`${file}\n`).update(readFileSync(join(root, file))).update("\n");
  }
  return hash.digest("hex");
}

if (process.argv.includes("--check")) {
  const [, made] = /SHA-256 ([0-9a-f]{64})/.exec(readFileSync(page, "utf8")) ?? [];
  if (made !== hashOfSources()) {
    console.error("src/control/demo/page.html is older than its sources: run `npm install && npm run build` in clients/bell and commit it");
    process.exit(1);
  }
  process.exit(0);
}

const { build } = await import("esbuild");
const common = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  write: false,
  target: ["es2022"],
  charset: "utf8",
  legalComments: "none",
  loader: { ".css": "text" },
  // The bell speaks JSON; the client would load this only for MessagePack.
  external: ["@msgpack/msgpack"],
};
const bundled = async (entry, options) => (await build({ ...common, entryPoints: [entry], ...options })).outputFiles[0].text;

await build({ ...common, entryPoints: ["src/index.ts"], write: true, format: "esm", outfile: "dist/bell.js", plugins: [minifiedText()] });

const script = (await bundled("page/page.ts", { format: "iife", plugins: [minifiedText()] })).trim();
const style = (await bundled("page/page.css", { loader: { ".css": "css" } })).trim();
for (const [name, text] of [["script", script], ["style", style]]) {
  if (/<\/?(script|style|!--)/i.test(text)) {
    throw new Error(`the ${name} holds a tag, which would end it in the page`);
  }
}
const parts = { SOURCES: hashOfSources(), STYLE: style, SCRIPT: script };
const template = readFileSync(join(here, "page/page.html"), "utf8");
writeFileSync(page, template.replace(/\b(SOURCES|STYLE|SCRIPT)\b/g, (name) => parts[name]));
console.log(`src/control/demo/page.html: ${Buffer.byteLength(script)} bytes of script, ${Buffer.byteLength(style)} of style`);

/** A style sheet that goes into the script as text, minified like one that does not. */
function minifiedText() {
  return {
    name: "minified-text",
    setup({ onLoad }) {
      onLoad({ filter: /\.css$/ }, async ({ path }) => {
        const text = await bundled(path, { loader: { ".css": "css" }, plugins: [] });
        return { contents: text.trim(), loader: "text" };
      });
    },
  };
}
