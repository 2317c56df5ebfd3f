// As a bundler would take it. What pages pay for the client, without MessagePack, which is loaded by those who use it.
export default [
  {
    path: "dist/index.js",
    limit: "12 kB",
    gzip: true,
    ignore: ["@msgpack/msgpack"],
    modifyEsbuildConfig: (config) => ({ ...config, format: "esm" }),
  },
];
