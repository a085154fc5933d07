/** The text of a PDF file, read by pdf.js in a worker that is ended when it takes too long. */

import { getDocument, GlobalWorkerOptions, PDFWorker, VerbosityLevel } from "pdfjs-dist";
import { t } from "./language";

const SECONDS = 30;
const MOST_PAGES = 2_000;

export interface PdfText {
  text: string;
  pages: number;
  emptyPages: number;
}

/** Raises an Error, in words, for what is not a PDF, is locked, or takes too long. */
export async function readPdf(data: ArrayBuffer): Promise<PdfText> {
  const port = new Worker(workerAddress(), { type: "module" });
  GlobalWorkerOptions.workerPort = null;
  const worker = PDFWorker.create({ port });
  let timer = 0;
  const tooLong = new Promise<never>((_, reject) => {
    timer = window.setTimeout(() => reject(new Error(t.pdfTooSlow)), SECONDS * 1000);
  });
  try {
    return await Promise.race([textOf(data, worker), tooLong]);
  } finally {
    clearTimeout(timer);
    port.terminate();
  }
}

async function textOf(data: ArrayBuffer, worker: PDFWorker): Promise<PdfText> {
  const loading = getDocument({
    data,
    worker,
    verbosity: VerbosityLevel.ERRORS,
    useSystemFonts: true,
    disableFontFace: true,
    enableXfa: false,
    useWasm: false,
    stopAtErrors: false,
  });
  const file = await loading.promise;
  const pages: string[] = [];
  for (let number = 1; number <= Math.min(file.numPages, MOST_PAGES); number++) {
    const page = await file.getPage(number);
    const { items } = await page.getTextContent();
    let text = "";
    for (const item of items) {
      if ("str" in item) text += item.str + (item.hasEOL ? "\n" : "");
    }
    pages.push(text.trim());
    page.cleanup();
  }
  const emptyPages = pages.filter((text) => !text).length;
  return { text: pages.filter(Boolean).join("\n\n"), pages: file.numPages, emptyPages };
}

const ADDRESS = new URL("pdf.worker.js", new URL(".", import.meta.url)).href;
let policy: ScriptPolicy | undefined;

/** The page's Trusted Types allow one script address besides its own modules: this worker's. */
function workerAddress(): string {
  const types = (window as unknown as { trustedTypes?: TrustedTypes }).trustedTypes;
  if (!types) return ADDRESS;
  policy ??= types.createPolicy("openqwq-worker", { createScriptURL: onlyTheWorker });
  return policy.createScriptURL(ADDRESS) as unknown as string;
}

function onlyTheWorker(url: string): string {
  if (url !== ADDRESS) throw new TypeError(`not this page's worker: ${url}`);
  return url;
}

interface ScriptPolicy {
  createScriptURL: (url: string) => { toString(): string };
}

interface TrustedTypes {
  createPolicy(name: string, rules: { createScriptURL: (url: string) => string }): ScriptPolicy;
}
