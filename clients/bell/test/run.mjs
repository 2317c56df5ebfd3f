// All tests of the bell: those without a page, bundled and run by Node, then those in Chromium.
//   CAMPANILE_BIN=PROGRAM node test/run.mjs [--screenshots FOLDER]
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { cleanUp, here, load, newFolder } from "./support.mjs";

let status = 1;
try {
  const bundle = join(newFolder(), "units.mjs");
  await load("esbuild").build({
    entryPoints: [join(here, "units.ts")],
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    loader: { ".css": "text" },
    outfile: bundle,
    logLevel: "warning",
  });
  const units = spawnSync(process.execPath, ["--test", "--test-reporter=dot", bundle], { stdio: "inherit" });
  if (units.status === 0) {
    const { inChromium } = await import("./chromium.mjs");
    await inChromium(process.argv[process.argv.indexOf("--screenshots") + 1 || process.argv.length]);
    status = 0;
  }
} catch (error) {
  console.error(error);
} finally {
  await cleanUp();
}
process.exit(status);
