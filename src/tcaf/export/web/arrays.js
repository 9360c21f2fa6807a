// Files of features: .npz as numpy.savez and savez_compressed write it, and JSON.

const HALF = 1 / 1024;

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * HALF * 2 ** -14;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction * HALF) * 2 ** (exponent - 15);
}

const READERS = {
  "<f2": [2, (view, at) => half(view.getUint16(at, true))],
  "<f4": [4, (view, at) => view.getFloat32(at, true)],
  "<f8": [8, (view, at) => view.getFloat64(at, true)],
};

/** Returns the rows of an array of two axes, as {rows, dim, data}. */
export function readNpy(bytes, name) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes[0] !== 0x93 || String.fromCharCode(...bytes.slice(1, 6)) !== "NUMPY") {
    throw new Error(`${name} is no array of numpy`);
  }
  const wide = bytes[6] > 1;
  const start = wide ? 12 : 10;
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = new TextDecoder("latin1").decode(bytes.subarray(start, start + length));
  const type = /'descr': *'([^']*)'/.exec(header)?.[1];
  const shape = (/'shape': *\(([^)]*)\)/.exec(header)?.[1] ?? "").split(",").filter((s) => s.trim()).map(Number);
  const reader = READERS[type];
  if (!reader) throw new Error(`${name} holds ${type ?? "no"} numbers; expected float16, 32 or 64`);
  if (shape.length !== 2 || header.includes("'fortran_order': True")) {
    throw new Error(`${name} has the shape (${shape}); expected tokens, one a row`);
  }
  const [size, read] = reader;
  const [rows, dim] = shape;
  if (start + length + rows * dim * size > bytes.length) throw new Error(`${name} is cut off`);
  const data = new Float32Array(rows * dim);
  for (let i = 0; i < data.length; i++) data[i] = read(view, start + length + i * size);
  return { rows, dim, data };
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Returns the arrays of an .npz file by name. */
export async function readNpz(buffer) {
  const view = new DataView(buffer);
  let end = buffer.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Error("the file is no .npz");
  const found = {};
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (view.getUint32(at, true) !== 0x02014b50) throw new Error("the .npz is damaged");
    const method = view.getUint16(at + 10, true);
    const size = view.getUint32(at + 20, true);
    const [nameLength, extra, comment] = [28, 30, 32].map((o) => view.getUint16(at + o, true));
    const local = view.getUint32(at + 42, true);
    const name = new TextDecoder().decode(new Uint8Array(buffer, at + 46, nameLength));
    const from = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const content = new Uint8Array(buffer, from, size);
    const key = name.replace(/\.npy$/, "");
    found[key] = readNpy(method === 8 ? await inflate(content) : content, key);
    at += 46 + nameLength + extra + comment;
  }
  return found;
}

/** Returns the arrays of a JSON object of lists of rows by name. */
export function readJson(text) {
  const found = {};
  for (const [name, rows] of Object.entries(JSON.parse(text))) {
    const dim = rows[0]?.length ?? 0;
    const flat = rows.flat();
    if (rows.some((row) => row.length !== dim) || !flat.every(Number.isFinite)) {
      throw new Error(`${name} is no list of rows of as many numbers`);
    }
    found[name] = { rows: rows.length, dim, data: Float32Array.from(flat) };
  }
  return found;
}
