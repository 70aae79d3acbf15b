/**
 * A plugin of NRI: the runtime calls it in RunPodSandbox, after the CNI plugins and before any container, and waits for
 * its answer.
 *
 * https://github.com/containerd/nri
 */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import {
  configureRequest,
  configureResponse,
  empty,
  type PodSandbox,
  RUN_POD_SANDBOX,
  registerPluginRequest,
  runPodSandboxRequest,
  stateChangeEvent,
  synchronizeRequest,
  synchronizeResponse,
} from './messages.ts';
import { Mux } from './mux.ts';
import { TtrpcClient, ttrpcServer } from './ttrpc.ts';

/** The runtime calls the plugin on the first connection, and the plugin the runtime on the second. */
const PLUGIN_SERVICE = 1;
const RUNTIME_SERVICE = 2;

const NAME = 'istio-pod-network-controller';
/** Plugins are called in this order, from 00 to 99. Nothing here depends on the others. */
const INDEX = '50';

/** A healthy runtime registers a plugin within 10 ms. */
const REGISTER_MS = 1000;

export interface PluginHandlers {
  /** Every sandbox of the runtime, after the connection. */
  onList(pods: readonly PodSandbox[]): void;
  /** The runtime waits until it resolves. If it rejects, the runtime refuses the sandbox with the error's message. */
  onRun(pod: PodSandbox): Promise<void>;
}

export class NriPlugin {
  readonly #socket: Socket;
  readonly #configured = Promise.withResolvers<void>();
  readonly #handlers = Promise.withResolvers<PluginHandlers>();
  /** Resolves when the connection has ended, with the reason. */
  readonly closed: Promise<string>;
  #requestMs = 0;

  private constructor(socket: Socket, signal: AbortSignal) {
    this.#socket = socket;
    this.closed = new Promise((resolve) => {
      let reason = 'the runtime closed the connection';
      socket.on('error', (error) => {
        reason = error.message;
      });
      socket.once('close', () => resolve(reason));
    });
    const end = () => socket.destroy();
    signal.addEventListener('abort', end, { once: true });
    void this.closed.then(() => signal.removeEventListener('abort', end));
  }

  /** Connects and registers. Rejects with Error. The signal ends the connection, at any time. */
  static async connect(path: string, signal: AbortSignal): Promise<NriPlugin> {
    const socket = connect(path);
    const plugin = new NriPlugin(socket, signal);
    try {
      await once(socket, 'connect', { signal });
      const failed = plugin.closed.then((reason) => {
        throw new Error(reason);
      });
      const late = once(AbortSignal.timeout(REGISTER_MS), 'abort').then(() => {
        throw new Error(`the runtime did not register the plugin within ${REGISTER_MS} ms`);
      });
      await Promise.race([plugin.#register(), failed, late]);
    } catch (error) {
      socket.destroy();
      throw error;
    }
    return plugin;
  }

  /** How long the runtime waits for an answer, milliseconds; it then drops the plugin. */
  get requestMs(): number {
    return this.#requestMs;
  }

  /** To be called once. Until then the runtime waits. */
  handle(handlers: PluginHandlers): void {
    this.#handlers.resolve(handlers);
  }

  async #register(): Promise<void> {
    const mux = new Mux(this.#socket);
    const sendAnswer = mux.open(PLUGIN_SERVICE, (data) => serve(data));
    const serve = ttrpcServer(
      sendAnswer,
      new Map<string, (payload: Uint8Array) => Promise<Buffer> | Buffer>([
        ['Configure', (payload) => this.#configure(payload)],
        ['Synchronize', (payload) => this.#synchronize(payload)],
        ['RunPodSandbox', (payload) => this.#run(runPodSandboxRequest.decode(payload).pod)],
        ['StateChange', (payload) => this.#stateChange(payload)],
        ['Shutdown', () => empty.encode({})],
      ]),
    );
    const sendRequest = mux.open(RUNTIME_SERVICE, (data) => runtime.receive(data));
    const runtime = new TtrpcClient('nri.pkg.api.v1alpha1.Runtime', sendRequest);
    await runtime.call('RegisterPlugin', registerPluginRequest.encode({ pluginName: NAME, pluginIdx: INDEX }));
    await this.#configured.promise;
  }

  #configure(payload: Uint8Array): Buffer {
    this.#requestMs = Number(configureRequest.decode(payload).requestTimeout);
    this.#configured.resolve();
    return configureResponse.encode({ events: 1 << (RUN_POD_SANDBOX - 1) });
  }

  async #synchronize(payload: Uint8Array): Promise<Buffer> {
    const { pods, more } = synchronizeRequest.decode(payload);
    (await this.#handlers.promise).onList(pods);
    return synchronizeResponse.encode({ more });
  }

  /** Up to NRI 0.11 RunPodSandbox comes as a change of state. */
  #stateChange(payload: Uint8Array): Promise<Buffer> | Buffer {
    const { event, pod } = stateChangeEvent.decode(payload);
    return event === RUN_POD_SANDBOX ? this.#run(pod) : empty.encode({});
  }

  async #run(pod: PodSandbox | null): Promise<Buffer> {
    if (pod !== null) await (await this.#handlers.promise).onRun(pod);
    return empty.encode({});
  }
}
