import * as scrollbars from 'react-custom-scrollbars-2';

export const Scrollbars = scrollbars.Scrollbars ?? scrollbars.default?.Scrollbars ?? scrollbars.default;
export default Scrollbars;
