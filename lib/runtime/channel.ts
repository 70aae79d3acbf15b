/** gRPC over a unix socket: calls with a time limit, errors with a code, streams that can be left. */
import { Client, credentials, type ServiceError, status } from '@grpc/grpc-js';
import { Failure } from '../errors.ts';
import type { Method } from './method.ts';

/** As the kubelet's own client. The default of grpc-js is 4 MB; all pods of a node with their annotations may be more. */
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;

/** The pause between two attempts to connect to a socket that does not answer. */
const RECONNECT_MS = { first: 50, longest: 500 };

/** A call of a runtime failed. */
export class RuntimeError extends Failure {
  override readonly name = 'RuntimeError';
  /** Of gRPC: `UNAVAILABLE` (the socket does not answer), `DEADLINE_EXCEEDED`, `NOT_FOUND`, `UNIMPLEMENTED`. */
  readonly status: keyof typeof status;

  constructor(status: RuntimeError['status'], detail: string, cause?: unknown) {
    super('ERR_RUNTIME', { detail, cause });
    this.status = status;
  }
}

/**
 * Connects at the first call, and again after the connection was lost. While the socket does not answer, calls fail at
 * once with UNAVAILABLE.
 */
export class Channel {
  readonly #socket: string;
  readonly #client: Client;

  /** `socket` is a path as this process sees it. */
  constructor(socket: string) {
    this.#socket = socket;
    this.#client = new Client(`unix:${socket}`, credentials.createInsecure(), {
      'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
      'grpc.initial_reconnect_backoff_ms': RECONNECT_MS.first,
      'grpc.max_reconnect_backoff_ms': RECONNECT_MS.longest,
    });
  }

  /** Rejects with RuntimeError, which is CANCELLED after the signal. */
  call<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    { limitMs, signal }: { limitMs: number; signal?: AbortSignal | undefined },
  ): Promise<Response> {
    const { path, requestSerialize, responseDeserialize } = method;
    return new Promise((resolve, reject) => {
      const deadline = Date.now() + limitMs;
      const answered = (error: ServiceError | null, answer?: Response) => {
        signal?.removeEventListener('abort', cancel);
        if (error === null && answer !== undefined) resolve(answer);
        else reject(this.#explain(error, path));
      };
      const call = this.#client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        { deadline },
        answered,
      );
      const cancel = () => call.cancel();
      signal?.addEventListener('abort', cancel, { once: true });
      if (signal?.aborted) cancel();
    });
  }

  /** Ends when the runtime ends it; throws RuntimeError, which is CANCELLED after the signal. */
  async *stream<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    signal: AbortSignal,
  ): AsyncGenerator<Response, void> {
    const { path, requestSerialize, responseDeserialize } = method;
    if (signal.aborted) throw new RuntimeError('CANCELLED', `${path}: aborted`);
    const call = this.#client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request);
    const cancel = () => call.cancel();
    signal.addEventListener('abort', cancel, { once: true });
    try {
      for await (const message of call) yield message as Response;
    } catch (error) {
      throw this.#explain(error, path);
    } finally {
      signal.removeEventListener('abort', cancel);
      call.cancel();
    }
  }

  close(): void {
    this.#client.close();
  }

  #explain(error: unknown, path: string): RuntimeError {
    const { code = status.UNKNOWN, details } = (error ?? {}) as Partial<ServiceError>;
    const name = (status[code] ?? 'UNKNOWN') as keyof typeof status;
    return new RuntimeError(name, `${path} at ${this.#socket}: ${name}: ${details ?? String(error)}`, error);
  }
}
