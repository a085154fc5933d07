/** Hooks that several parts of the page share. */

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

let ids = 0;

/** An id that no other element has; Preact's own repeats itself when parts come later. */
export function useUniqueId(): string {
  const id = useRef("");
  id.current ||= `id-${++ids}`;
  return id.current;
}

const PHONE = matchMedia("(max-width: 800px)");

/** Whether the page is so narrow that the conversations are a drawer. */
export function usePhone(): boolean {
  const [phone, setPhone] = useState(PHONE.matches);
  useEffect(() => {
    const onChange = () => setPhone(PHONE.matches);
    PHONE.addEventListener("change", onChange);
    return () => PHONE.removeEventListener("change", onChange);
  }, []);
  return phone;
}

/** Keeps a scrolling box at its end while its content grows, until the reader scrolls up.
 *
 * The content is the box's one child. `away` tells that the reader is far from the end.
 */
export function useFollow(active: boolean) {
  const box = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  const lastTop = useRef(0);
  const [away, setAway] = useState(false);

  const toEnd = () => {
    following.current = true;
    setAway(false);
    if (box.current) box.current.scrollTop = box.current.scrollHeight;
  };

  useLayoutEffect(() => {
    const element = box.current;
    const content = element?.firstElementChild;
    if (!active || !content) return;
    const observer = new ResizeObserver(() => {
      if (following.current) element.scrollTop = element.scrollHeight;
    });
    observer.observe(content);
    observer.observe(element);
    return () => observer.disconnect();
  }, [active]);

  const onScroll = () => {
    const element = box.current;
    if (!element) return;
    const gap = element.scrollHeight - element.scrollTop - element.clientHeight;
    // Only the reader scrolls up; content that grows merely leaves a gap.
    if (gap < 24) following.current = true;
    else if (element.scrollTop < lastTop.current) following.current = false;
    lastTop.current = element.scrollTop;
    setAway(gap > 200 && !following.current);
  };

  return { box, onScroll, toEnd, away };
}
