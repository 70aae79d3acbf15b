/** Is called with the duration of each part, in milliseconds. */
export type Progress = (part: string, ms: number) => void;

/** Awaits a part and tells how long that took. */
export function stopwatch(progress: Progress = () => {}): <T>(part: string, work: Promise<T>) => Promise<T> {
  return async (part, work) => {
    const began = performance.now();
    const result = await work;
    progress(part, performance.now() - began);
    return result;
  };
}
