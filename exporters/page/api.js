// Questions to the service. Its addresses are relative, so that a proxy may put the page below any path.

const TIMEOUT_MILLISECONDS = 20_000;

/** The service did not do what it was asked; `status` is 0 where it did not answer. */
export class ApiError extends Error {
  /** @param {number} status @param {string} message @param {any} [detail] */
  constructor(status, message, detail) {
    super(message);
    this.status = status;
    this.detail = detail;
  }

  /** Whether a login may help. */
  get isRefused() {
    return this.status === 401 || this.status === 403;
  }
}

/**
 * @param {string} path below /api/v1
 * @param {{query?: Record<string, any>, method?: string, body?: any, signal?: AbortSignal}} [options] lists in `query` are repeated
 * @returns {Promise<any>}
 */
export async function ask(path, { query = {}, method = "GET", body, signal } = {}) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const each of [value].flat())
      if (each !== undefined && each !== null && each !== "") parameters.append(name, each);
  }
  const url = `api/v1/${path}${parameters.size ? `?${parameters}` : ""}`;
  const timeout = AbortSignal.timeout(TIMEOUT_MILLISECONDS);
  let response;
  try {
    response = await fetch(url, {
      method,
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
      headers: method === "GET" ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "The service does not answer.");
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok)
    throw new ApiError(
      response.status,
      sentence(answer?.detail) || `The service answered ${response.status}.`,
      answer?.detail,
    );
  return answer;
}

/** @param {string} run @param {string} [rest] */
export function ofRun(run, rest = "") {
  // A browser takes these for folders, whatever they are written as.
  if (run === "." || run === "..") throw new ApiError(404, `no run "${run}"`);
  return `runs/${encodeURIComponent(run)}${rest}`;
}

function sentence(detail) {
  if (Array.isArray(detail)) return detail.map((each) => each.msg).join("; ");
  return typeof detail === "string" ? detail : (detail?.message ?? "");
}
