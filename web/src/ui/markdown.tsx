/** Markdown as a component; it draws at a pace that leaves the page responsive. */

import { Component, createRef } from "preact";
import { MarkdownView } from "../markdown/view";

interface Props {
  text: string;
  done: boolean;
  /** A change draws everything again, as its buttons have words. */
  language?: string;
}

/** After a drawing that took t, the next waits this many t: at most a fifth of the time is ours. */
const REST = 4;

export class Markdown extends Component<Props> {
  private readonly root = createRef<HTMLDivElement>();
  private view: MarkdownView | null = null;
  private timer = 0;
  private readyAt = 0;

  override componentDidMount(): void {
    if (this.root.current) this.view = new MarkdownView(this.root.current);
    this.draw();
  }

  override componentDidUpdate(before: Props): void {
    if (before.language !== this.props.language) this.view?.reset();
    if (this.props.done || performance.now() >= this.readyAt) this.draw();
    else if (!this.timer) {
      const wait = this.readyAt - performance.now();
      this.timer = window.setTimeout(() => this.draw(), wait);
    }
  }

  override componentWillUnmount(): void {
    clearTimeout(this.timer);
  }

  private draw(): void {
    clearTimeout(this.timer);
    this.timer = 0;
    const start = performance.now();
    this.view?.update(this.props.text, this.props.done);
    const end = performance.now();
    this.readyAt = end + (end - start) * REST;
  }

  override shouldComponentUpdate(next: Props): boolean {
    const { text, done, language } = this.props;
    return next.text !== text || next.done !== done || next.language !== language;
  }

  render() {
    return <div class="markdown" ref={this.root} />;
  }
}
