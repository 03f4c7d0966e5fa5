/** Builds the files of `actorchat/web/static`: `node build.mjs [FOLDER] [--watch]`. */
import { watch } from "node:fs"
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises"
import { dirname, join, resolve } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { brotliCompress, constants } from "node:zlib"
import * as esbuild from "esbuild"
import { minify } from "terser"

const here = dirname(fileURLToPath(import.meta.url))
const target = resolve(process.argv.slice(2).find(argument => !argument.startsWith("--")) ?? join(here, "../static"))

/** Imports what the elements of a component are compiled to. */
const elements = {
  name: "elements",
  setup(build) {
    build.onLoad({ filter: /\.tsx$/ }, async ({ path }) => ({
      contents: `import { h, Fragment } from "preact";${await readFile(path, "utf8")}`,
      loader: "tsx",
    }))
  },
}

const watches = process.argv.includes("--watch")

/** Terser minifies once more what esbuild has bundled: 2 % less after compression. */
const smaller = { ecma: 2020, compress: { keep_fargs: false, pure_getters: true } }

const common = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  // Protected members; Preact's own names begin with two underscores.
  mangleProps: /^_[a-z]/,
  // Calls of `h` are smaller than those of the JSX runtime. The type checker does not need them.
  tsconfigRaw: { compilerOptions: { jsx: "react", jsxFactory: "h", jsxFragmentFactory: "Fragment", verbatimModuleSyntax: true } },
  plugins: [elements],
  write: false,
  outdir: "static",
  // esbuild makes the hashes of names before Terser runs, so that Terser's settings must be in what it hashes.
  banner: { js: `/* ${JSON.stringify(smaller)} */` },
  // esbuild's hashes are case-insensitive by design, so that files are distinct on every file system.
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
}

const BEST = { params: { [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY } }

/** Style sheets of shadow roots are text for constructable style sheets. */
const sheets = (filter = /\.css$/) => ({
  name: "sheets",
  setup(build) {
    build.onLoad({ filter }, async ({ path }) => {
      const { code } = await esbuild.transform(await readFile(path, "utf8"), {
        loader: "css",
        minify: true,
        target: "es2022",
      })
      // esbuild leaves the spaces before the values of custom properties.
      return { contents: code.trim().replace(/(--[\w-]+): /g, "$1:"), loader: "text" }
    })
  },
})

const nameOf = file => file.path.slice(file.path.lastIndexOf("/") + 1)
const find = (files, pattern) => {
  const file = files.find(file => pattern.test(nameOf(file)))
  if (!file) throw new Error(`the build made no ${pattern}`)
  return nameOf(file)
}

/** The files that a browser needs before it can run an entry. Named in the page, they load at the same time. */
const importsOf = ({ outputs }, entry) => {
  const needed = new Set()
  const add = ({ imports }) => {
    for (const { path, kind } of imports) {
      if (kind !== "import-statement" || needed.has(path)) continue
      needed.add(path)
      add(outputs[path])
    }
  }
  add(Object.values(outputs).find(({ entryPoint }) => entryPoint === entry))
  return [...needed].map(path => nameOf({ path }))
}

async function build() {
  const [sdk, panel, demo, operators] = await Promise.all([
    esbuild.build({ ...common, entryPoints: { sdk: "sdk/index.ts", desk: "sdk/desk.ts" }, entryNames: "[name]" }),
    esbuild.build({ ...common, entryPoints: { panel: "widget/panel.tsx" }, splitting: true, plugins: [elements, sheets()] }),
    esbuild.build({ ...common, entryPoints: { demo: "demo/demo.ts", "demo-style": "demo/demo.css" } }),
    esbuild.build({
      ...common,
      entryPoints: { console: "console/main.tsx", "console-style": "console/console.css" },
      // The language that the console loads has another name than the widget's.
      chunkNames: "console-[name]-[hash]",
      splitting: true,
      metafile: true,
      plugins: [elements, sheets(/(pages|preview|loader|widget)\.css$/)],
    }),
  ])
  const panelName = find(panel.outputFiles, /^panel-.*\.js$/)
  const loader = await esbuild.build({
    ...common,
    entryPoints: { widget: "widget/loader.ts" },
    entryNames: "[name]",
    format: "iife",
    define: { PANEL: JSON.stringify(panelName) },
    plugins: [sheets()],
  })
  const files = new Map()
  for (const file of [...sdk.outputFiles, ...panel.outputFiles, ...demo.outputFiles, ...operators.outputFiles, ...loader.outputFiles]) {
    const module = !loader.outputFiles.includes(file)
    const isScript = file.path.endsWith(".js") && !watches
    files.set(nameOf(file), isScript ? (await minify(file.text, { ...smaller, module })).code : file.contents)
  }
  // What pages of other people load is also there as their browsers like it best.
  const forSites = watches ? [] : [...loader.outputFiles, ...panel.outputFiles, ...sdk.outputFiles]
  for (const name of forSites.map(nameOf)) {
    files.set(`${name}.br`, await promisify(brotliCompress)(files.get(name), BEST))
  }
  const page = (await readFile(join(here, "demo/demo.html"), "utf8"))
    .replace("demo.css", `web/${find(demo.outputFiles, /^demo-style-.*\.css$/)}`)
    .replace("demo.js", `web/${find(demo.outputFiles, /^demo-(?!style).*\.js$/)}`)
  files.set("demo.html", page)
  const console = (await readFile(join(here, "console/console.html"), "utf8"))
    .replace("console.css", `web/${find(operators.outputFiles, /^console-style-.*\.css$/)}`)
    .replace("console.js", `web/${find(operators.outputFiles, /^console-[A-Z0-9]{8}\.js$/)}`)
    .replace("</head>", `${importsOf(operators.metafile, "console/main.tsx").map(name => `<link rel="modulepreload" href="web/${name}">\n`).join("")}</head>`)
  files.set("console.html", console)
  files.set("manifest.json", `${JSON.stringify({ panel: panelName })}\n`)
  files.set("sdk.d.ts", await declarations("types", "index", ["openChat"]))
  files.set("desk.d.ts", await declarations("desk-types", "desk", ["openDesk", "openOperatorSession"]))
  files.set("LICENCES.txt", await licences())
  return files
}

/** The files with types have only declarations, so they are their own declaration files. */
async function declarations(types, entry, functions) {
  const declared = (await readFile(join(here, `sdk/${types}.ts`), "utf8")).replaceAll('"./types.ts"', '"./sdk.js"')
  const source = await readFile(join(here, `sdk/${entry}.ts`), "utf8")
  const exported = functions.map(name => {
    const [, comment, signature] = source.match(new RegExp(`(/\\*\\*[^/]*\\*/)\\nexport function (${name}\\(.*) {\\n`)) ?? []
    if (!comment) throw new Error(`sdk/${entry}.ts does not document ${name}`)
    return `${comment}\nexport declare function ${signature.replace(/: (\w+) = .*\): /, "?: $1): ")}\n`
  })
  return [declared, ...exported].join("\n")
}

async function licences() {
  const preact = await readFile(join(here, "node_modules/preact/LICENSE"), "utf8")
  const virtual = await readFile(join(here, "node_modules/@tanstack/virtual-core/LICENSE"), "utf8")
  return `The widget and the console contain Preact:\n\n${preact}\nThe console contains TanStack Virtual:\n\n${virtual}`
}

async function write() {
  const files = await build()
  await mkdir(target, { recursive: true })
  for (const name of await readdir(target)) if (!files.has(name)) await rm(join(target, name))
  for (const [name, contents] of files) await writeFile(join(target, name), contents)
}

await write()
if (watches) {
  console.log(`built ${target}; waiting for changes`)
  let timer
  watch(here, { recursive: true }, (_, name) => {
    if (name?.startsWith("node_modules")) return
    clearTimeout(timer)
    timer = setTimeout(() => {
      write().then(
        () => console.log(`built at ${new Date().toLocaleTimeString()}`),
        error => console.error(error.message),
      )
    }, 50)
  })
}
